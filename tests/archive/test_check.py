"""An audit of a large table: that of softfree check, from facts that interruptions do not lose."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from softfree.archive.folder import ArchiveFolder
from softfree.cli.main import main


def test_the_audit_is_that_of_a_small_table(small_table: Path, tmp_path: Path, capsys) -> None:
    folder = small_table.parent
    shutil.copy(folder / "03.png", folder / "20.png")
    (folder / "05.png").write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    command = ["check", str(small_table), "--json"]
    alone = main(command)
    expected = json.loads(capsys.readouterr().out)
    bulk = [*command, "--folder", str(tmp_path / "facts"), "--workers", "0", "--block", "4"]
    assert main([*bulk, "--limit", "12"]) == 0
    assert "12 of 32 files were read" in capsys.readouterr().err
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "facts" / "parts").iterdir()}
    assert main(bulk) == alone
    assert json.loads(capsys.readouterr().out) == expected
    assert parts.items() <= {p: p.stat().st_mtime_ns for p in (tmp_path / "facts" / "parts").iterdir()}.items()
    assert ArchiveFolder(tmp_path / "facts").done(32).all()


def test_options_of_large_tables(small_table: Path, tmp_path: Path, capsys) -> None:
    assert main(["check", str(small_table), "--shard", "0/2"]) == 2
    assert "--shard is for large tables" in capsys.readouterr().err
    bulk = ["check", str(small_table), "--folder", str(tmp_path / "facts"), "--workers", "0", "--limit", "1"]
    assert main(bulk) == 0
    lines = small_table.read_text().splitlines()
    small_table.write_text("\n".join([lines[0], *lines[2:]]) + "\n")
    assert main(bulk) == 2
    assert "was begun with files digest" in capsys.readouterr().err
