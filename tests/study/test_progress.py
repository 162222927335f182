"How long a grid takes, and why what is missing is missing."

from other_worlds import leave_world
from workflows import leave_run, small_grid

from npt._files import write_text
from npt.study.cli import grid_command
from npt.study.grid import read_grid
from npt.study.plan import make_plan, write_plan
from npt.study.progress import _failures, describe_plan, tell_failures


def test_estimate_is_from_runs_already_done(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_plan(read_grid(small_grid(seed=[1, 2, 3, 4], learner=["coop", "maple"])))
    for task, seconds in zip(plan.tasks[::2], (50, 70)):
        assert task.settings.learner == "coop"
        leave_run(task, seconds)
    said = describe_plan(plan)
    assert "8 runs, 2 done, 6 to do" in said and "2 x coop on world: 2 min, at 60.0 s a run" in said
    assert "4 x maple on world: unknown" in said and "2 min + unknown for 4 runs" in said
    assert said.splitlines()[-1].startswith("  price of what is to do: 6 runs, ")
    assert describe_plan(plan, name="mine.yaml").splitlines()[-1].startswith("  price of mine.yaml: 6 runs, ")


def test_another_backbone_is_named_and_timed_by_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiments = dict(here=dict(learner="coop", seed=[1, 2]),
                       there=dict(learner="coop", backbone="ViT-B-16-quickgelu", pretrained="none"))
    plan = make_plan(read_grid(dict(runs_dir="runs", experiments=experiments)))
    leave_run(plan.tasks[0], 50)
    lines = describe_plan(plan).splitlines()
    assert [line.strip() for line in lines[1:3]] == ["1 x coop on world: 50 s, at 50.0 s a run", "1 x coop on ViT-B-16-quickgelu: unknown"]


def test_missing_data_is_told_for_the_runs_that_needed_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("npt.study.jobs.prepare", lambda name, root: (_ for _ in ()).throw(ConnectionError(f"no way to {name}")))
    plan = make_plan(read_grid(small_grid(dataset=["dtd", "world/textures"])))
    write_plan(plan)
    assert grid_command(["dataset", "runs/.workflow/datasets/dtd.tried", "--most", "2e9"]) == 1
    causes = {tasks[0].settings.dataset: cause for cause, tasks in _failures(plan).items()}
    assert causes["dtd"] == "dtd could not be prepared: ConnectionError: no way to dtd"
    assert "nothing says why" in causes["world/textures"]


def test_a_clip_that_is_trained_first_is_told_before_and_its_failure_after(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NPT_CACHE", str(tmp_path / "cache"))
    plan = make_plan(read_grid(small_grid(pretrained=[None, "world-2", "world-3"])))
    lines = describe_plan(plan).splitlines()
    assert lines[1] == "  2 CLIPs to be pretrained first (world-2, world-3), about 20 minutes of two idle cores each"
    leave_world("world-3", seed=0)
    assert "\n  1 CLIP to be pretrained first (world-2), about 20 minutes of two idle cores each\n" in describe_plan(plan)
    write_text("RuntimeError: no luck\n\nTraceback ...", plan.folder / "weights" / "world-2.failed.txt")
    causes = {tasks[0].settings.pretrained: cause for cause, tasks in _failures(plan).items()}
    assert causes["world-2"] == "world-2 could not be prepared: RuntimeError: no luck"
    assert "nothing says why" in causes[None] and len(causes) == 3
    leave_world("world-2", seed=0)
    assert not any("could not be prepared" in cause for cause in _failures(plan)), "it was trained since"
    assert "pretrained" not in describe_plan(plan)


def test_finished_runs_need_no_clip(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NPT_CACHE", str(tmp_path / "cache"))
    plan = make_plan(read_grid(small_grid(pretrained=[None, "world-2"])))
    leave_run(plan.tasks[1])
    assert "2 runs, 1 done" in describe_plan(plan) and "pretrained" not in describe_plan(plan)


def test_many_runs_of_one_cause_are_cut_on_the_screen_and_whole_in_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_plan(read_grid(small_grid(seed=list(range(8)))))
    for task in plan.tasks:
        write_text("ValueError: as an example\n\nTraceback ...", task.failed)
    said = tell_failures(plan)
    assert said.startswith("8 of 8 runs are missing:\n- ValueError: as an example\n") and "... and 3 more" in said
    assert len((tmp_path / "runs" / "failures.txt").read_text().splitlines()) == 8


def test_a_damaged_run_is_counted_as_missing_and_named_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_plan(read_grid(small_grid(seed=[1, 2, 3])))
    for task in plan.tasks:
        leave_run(task)
    assert tell_failures(plan) == "" and describe_plan(plan).endswith("3 runs, 3 done, 0 to do (jobs: 0)")
    damaged = plan.tasks[1]
    for path, content in {damaged.folder.metrics: '{"seconds": 1', damaged.folder.config: "", damaged.folder.history: "epoch,loss\n0,1."}.items():
        whole = path.read_text()
        path.write_text(content)
        assert "3 runs, 2 done, 1 to do" in describe_plan(plan)
        assert str(path) in tell_failures(plan).splitlines()[1] and "delete its folder" in tell_failures(plan)
        path.write_text(whole)
    damaged.folder.prompts.unlink()
    assert f"{str(damaged.folder.prompts)!r} is damaged (it is missing)" in tell_failures(plan)
