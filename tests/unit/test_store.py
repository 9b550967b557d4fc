"""Results on the disk: what is written is found again, whatever cuts the writing short."""

import numpy as np
import pytest

from lib_noiseorder.tools import store


def test_lines_are_found_again_and_one_cut_short_is_passed_over(tmp_path):
    path = tmp_path / "new" / "lines.jsonl"
    store.append(path, {"a": "two\nlines\u2028"})
    with path.open("a", encoding="utf-8") as file:
        file.write('\n{"a": "cut sho')
    store.append(path, {"a": 2}, at_once=False)
    assert list(store.lines(path)) == [{"a": "two\nlines\u2028"}, {"a": 2}]
    assert list(store.lines(tmp_path / "none")) == []


def test_kept_work_is_found_by_its_key_the_newest_first(tmp_path):
    path = tmp_path / "kept.jsonl"
    path.write_text('{"metric": "m", "key": 1, "v": 0}\n{"key": 2}\n{"metric": "m", "key": 1, "v": 1}\n[]\n')
    kept = store.Kept(path, "metric", "key")
    assert kept.get("m", 1)["v"] == 1 and kept.get("m", 2) is None
    kept.put({"metric": "m", "key": 2, "v": 3})
    assert kept.get("m", 2) == store.Kept(path, "metric", "key").get("m", 2) == {"metric": "m", "key": 2, "v": 3}
    alone = store.Kept(None, "key")
    alone.put({"key": 5})
    assert alone.get(5) == {"key": 5}


def test_what_was_packed_is_unpacked():
    features = np.arange(6, dtype=np.float64).reshape(2, 3).T
    assert store.unpacked(store.packed(features)).reshape(3, 2).tolist() == features.tolist()


def test_an_interruption_leaves_the_old_file(tmp_path):
    path = tmp_path / "deep" / "a.json"
    store.write_whole(path, "old")
    with pytest.raises(KeyboardInterrupt), store.whole_file(path) as part:
        part.write_text("ne")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_two_processes_may_write_the_same_file_at_once(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    with store.whole_file(path) as first:
        first.write_text("the plan")
        monkeypatch.setattr(store.os, "getpid", lambda: -1)
        with store.whole_file(path) as second:
            second.write_text("the plan")
        assert first.exists()
    assert path.read_text() == "the plan" and list(tmp_path.iterdir()) == [path]


def test_a_claimed_file_is_claimed_once(tmp_path):
    handle = store.claim(tmp_path / ".lock")
    assert store.claim(tmp_path / ".lock") is None
    store.os.close(handle)
    assert store.claim(tmp_path / ".lock") is not None
