"""The table of docs/performance.md and the command that fills it."""

import json

import pytest

from service.bench import performance
from service.bench.performance_table import NOT_MEASURED, SECTIONS, markdown


def test_each_machine_has_a_column_and_what_it_lacks_is_not_measured():
    table = markdown({"CPU": {"start.ready_s": 2.5, "start.idle_pss_bytes": 400 * 2**20}, "GPU": {}})
    lines = table.splitlines()
    assert "| `avesformer serve` until ready: s | 2.50 | not measured |" in lines
    assert "| idle memory (PSS): MiB | 400 | not measured |" in lines
    rows = [line for line in lines if line and not line.startswith("|---")]
    assert {line.count("|") for line in rows} == {4}
    assert sum(line.endswith(f"| {NOT_MEASURED} |") for line in rows) == sum(map(len, SECTIONS.values()))


def test_earlier_files_are_columns(tmp_path, capsys):
    (tmp_path / "cpu.json").write_text(json.dumps({"start.help_s": 0.1}))
    assert performance.main(["--column", f"2 cores={tmp_path / 'cpu.json'}"]) == 0
    assert "| `avesformer --help`: s | 0.10 |" in capsys.readouterr().out


@pytest.mark.slow
def test_a_device_is_tested_and_measured(tmp_path, capsys):
    target = tmp_path / "cpu.json"
    arguments = ["--device", "cpu", "--json", str(target), "--seconds", "0.1", "--only", "rle,batcher"]
    assert performance.main(arguments) == 0
    assert json.loads(target.read_bytes())["rle.ratio_to_pycocotools"] > 0
    assert "| run lengths of a 720p mask: time over pycocotools' |" in capsys.readouterr().out


@pytest.mark.slow
def test_a_step_that_fails_fails_the_command(tmp_path):
    assert performance.main(["--device", "none", "--json", str(tmp_path / "no.json"), "--only", "model"]) == 1
