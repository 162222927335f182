"""As if this were not installed. JupyterLab brings it, to check addresses in JSON, and nothing here does; its import compiles 39 grammars,
which takes two seconds of every process that reads or writes a notebook."""

raise ImportError("left out of the tests, see tests/absent")
