"""Folders made to harm whoever removes them or lists their contents."""

import os
import stat
import subprocess
from pathlib import Path

import psutil
import pytest

from locara_sidecar.machine.processes.scratch import Scratch
from locara_sidecar.machine.processes.trees import files_below, remove_tree

pytestmark = pytest.mark.skipif(os.name != "posix", reason="descriptors of folders")


@pytest.fixture
def removed_after(tmp_path):
    """A folder that is removed afterwards: pytest keeps folders for later sessions, and then fails on deep ones."""
    folder = tmp_path / "removed"
    folder.mkdir()
    yield folder
    # not with our own function: a test of it fails when that is broken, and then all later sessions would
    subprocess.run(["rm", "-rf", folder], check=True)


def deep(folder, levels):
    """Make a chain of folders that is deeper than any path can be, with a file at its end."""
    folder.mkdir()
    fd = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


def test_a_folder_is_removed_however_deep_it_is(removed_after):
    deep(removed_after / "deep", 3000)
    before = psutil.Process().num_fds()
    remove_tree(removed_after / "deep")
    assert os.listdir(removed_after) == []
    assert psutil.Process().num_fds() == before


def test_what_is_in_a_deep_folder_can_be_listed(removed_after):
    deep(removed_after / "deep", 1500)
    (removed_after / "deep" / "here").touch()
    (removed_after / "deep" / "loop").symlink_to(removed_after)
    found = sorted(os.path.basename(path) for path in files_below(removed_after / "deep"))
    assert found == ["file", "here", "loop"]
    deep(removed_after / "deeper", 3000)
    assert list(files_below(removed_after / "deeper")) == []  # no path leads there


def test_a_folder_without_rights_is_removed_and_what_links_lead_to_stays(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o500)
    secret = tmp_path / "key"
    secret.touch(mode=0o400)
    evil = tmp_path / "evil"
    (evil / "closed" / "more").mkdir(parents=True)
    (evil / "closed" / "file").touch()
    (evil / "to-folder").symlink_to(outside)
    (evil / "closed" / "to-file").symlink_to(secret)
    os.link(secret, evil / "same-file")
    os.mkfifo(evil / "pipe")
    (evil / "closed" / "more").chmod(0)
    (evil / "closed").chmod(0)
    evil.chmod(0o500)
    remove_tree(evil)
    assert not evil.exists()
    assert stat.S_IMODE(outside.stat().st_mode) == 0o500
    assert stat.S_IMODE(secret.stat().st_mode) == 0o400


def test_names_that_it_would_use_itself_are_no_obstacle(tmp_path):
    for number in range(1, 30):
        (tmp_path / "top" / f".removed-{number}" / "inner" / f".removed-{number + 1}").mkdir(parents=True)
    remove_tree(tmp_path / "top")
    assert os.listdir(tmp_path) == []


def test_what_is_not_there_or_no_folder_is_left_alone(tmp_path):
    remove_tree(tmp_path / "nothing")
    (tmp_path / "file").touch()
    remove_tree(tmp_path / "file")
    (tmp_path / "target" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    remove_tree(tmp_path / "link")
    assert sorted(os.listdir(tmp_path)) == ["file", "link", "target"]
    assert os.listdir(tmp_path / "target") == ["inner"]


def test_an_engines_scratch_folder_goes_however_deep_it_left_it():
    scratch = Scratch()
    deep(Path(scratch.path) / "deep", 1100)
    scratch.discard()
    assert not os.path.exists(scratch.path)
