"""A run: submitted, answered from the cache, beside another one, and refused."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.cluster import CONFIG, STEPS, UNCACHED, Cluster, Run


def test_a_run_succeeds(first_run: Run) -> None:
    _, output = first_run.wait()
    assert [step for step in STEPS if f"  {step}: succeeded\n" not in output] == []
    assert output.splitlines()[-1].startswith("Succeeded: ")


def test_its_report_is_on_the_volume(cluster: Cluster, first_run: Run, shell: str) -> None:
    assert first_run.summary(shell)["status"] == "succeeded"
    assert "report.html" in cluster.kubectl("exec", shell, "--", "ls", f"{cluster.folder}/{first_run.name}")


def test_an_unchanged_second_run_is_answered_from_the_cache(cluster: Cluster, first_run: Run, tmp_path: Path) -> None:
    second = cluster.submit(tmp_path / "output")
    code, output = second.wait()
    assert code == 0, output
    assert [step for step in STEPS if second.pods(step)] == UNCACHED, output


def test_two_runs_at_once(cluster: Cluster, first_run: Run, tmp_path: Path) -> None:
    two = [cluster.submit(tmp_path / f"output{seed}", f"train.seed={seed}") for seed in (1, 2)]
    for code, output in [run.wait() for run in two]:
        assert code == 0, output


def test_refused_data_ends_the_run_with_the_name_of_the_step(cluster: Cluster, first_run: Run, tmp_path: Path) -> None:
    run = cluster.submit(tmp_path / "output", "validate.min_train_images=100000")
    code, output = run.wait()
    assert code == 1, output
    assert output.splitlines()[-1].startswith("Failed: validate failed")
    assert "min_train_images" in run.logs("validate")
    assert run.exit_codes("validate") == [1]  # KFP's launcher makes every exit code 1; one attempt: it would only fail again
    assert not run.pods("train")


def test_a_source_that_does_not_exist(cluster: Cluster, tmp_path: Path) -> None:
    run = cluster.submit(tmp_path / "output", f"ingest.source=images:{cluster.folder}/nothing")
    code, output = run.wait()
    assert code == 1, output
    assert output.splitlines()[-1].startswith("Failed: snapshot failed")
    assert f"{cluster.folder}/nothing" in run.logs("snapshot")


def test_a_cancelled_run(cluster: Cluster, first_run: Run, tmp_path: Path) -> None:
    run = cluster.submit(tmp_path / "output", "train.seed=3", "train.rounds=100000")
    run.running_pod("train")
    run.terminate()
    code, output = run.wait()
    assert code == 1, output
    assert output.splitlines()[-1].startswith("Cancelled: ")


def test_another_namespace_is_refused(cluster: Cluster) -> None:
    code, output = cluster.command("submit", str(CONFIG), *cluster.settings(), "--host", cluster.host, "--namespace", "nobody")
    assert code in (1, 2)
    assert "nobody" in output
