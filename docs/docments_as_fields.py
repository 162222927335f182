"""Sphinx extension: the comments beside parameters, which nbdev calls docments, become the parameters' descriptions in the API pages."""

import inspect
import re
from typing import Any

from fastcore.docments import docments
from sphinx.application import Sphinx

CODE = re.compile(r"(`[^`]+`)")
MARKS = re.compile(r"([\\*_|])")  # what reStructuredText reads as mark-up
COMMENT = r"^%s%s\b[^=#\n]*(?:=.*?)?\s{2,}# (.+)$"


def as_rst(text: str) -> str:
    "A sentence of a docstring, which is written as Markdown: what stands in backticks is code, and nothing else is mark-up."
    parts = CODE.split(text)
    return "".join(f"``{part[1:-1]}``" if CODE.fullmatch(part) else MARKS.sub(r"\\\1", part) for part in parts)


def comment_beside(name: str, source: str, indent: str = "") -> str:
    "The comment on the line that gives a name its value or its type; empty where there is none."
    found = re.search(COMMENT % (indent, re.escape(name)), source, re.M)
    return found[1] if found else ""


def fields_of(thing: Any) -> dict[str, str]:
    "The description of each parameter, or of each field of a class, and of what is returned."
    if inspect.isclass(thing) and hasattr(thing, "model_fields"):  # pydantic keeps the comments from fastcore
        source = inspect.getsource(thing)
        return {name: comment_beside(name, source, " " * 4) for name in thing.model_fields}
    try:
        told = docments(thing, full=True)
    except (TypeError, ValueError, AttributeError):  # no signature: an alias of a type, an exception
        return {}
    return {name: one["docment"] or "" for name, one in told.items() if name != "self" and isinstance(one, dict)}


def add_fields(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    "Turn a docstring into reStructuredText, and add the descriptions to it."
    lines[:] = [as_rst(line) for line in lines]
    if what == "data":
        module, _, attribute = name.rpartition(".")
        lines[:] = [as_rst(comment_beside(attribute, inspect.getsource(__import__(module, fromlist=["_"]))))]
    if what not in ("class", "function", "method", "exception"):
        return
    fields = fields_of(thing)
    if what == "class":
        fields.pop("return", None)
    told = [f":returns: {as_rst(said)}" if field == "return" else f":param {field}: {as_rst(said)}"
            for field, said in fields.items() if said]
    lines += ["", *told, ""] if told else []


def skip(app: Sphinx, what: str, name: str, thing: Any, leave_out: bool, options: Any) -> bool | None:
    "Leave out what a class has and does not explain: fields are among its parameters already."
    if what == "class":
        explained = (inspect.isroutine(thing) or isinstance(thing, property)) and (thing.__doc__ or "").strip()
        return None if explained else True
    return None


def short_signature(app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: str | None, returned: str | None):
    "A class of many fields has them in its list of parameters, and not in its first line too."
    return ("(...)", None) if what == "class" and signature and signature.count(",") > 7 else None


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", add_fields)
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-signature", short_signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
