"""Prompts of a comparison: built-in sets, files as users have them, and files that are broken."""

import json
from collections import Counter

import pytest

from lib_noiseorder.tools.compare.prompts import BUILT_IN, PromptsError, pairs_of, read
from lib_noiseorder.tools.lab.evaluation import pairs_of as lab_pairs


def file(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_built_in_sets():
    categories = Counter(prompt.category for prompt in read("categories"))
    assert categories == {"colours": 10, "counts": 10, "positions": 10, "rare combinations": 10, "text": 10}
    assert len({prompt.text for prompt in read("categories")}) == 50
    assert read("paper")[0].text == "A blue colored pizza." and len(read("paper")) == 7
    assert set(BUILT_IN) == {"categories", "paper", "shapes"}


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("p.txt", "# a remark\na cat\n\n  two dogs  \n", [("a cat", ""), ("two dogs", "")]),
        ("p.txt", "\ufeffa cat\r\na dog\r\n", [("a cat", ""), ("a dog", "")]),
        ("DrawBench.csv", 'Prompts,Category\n"A car, fast.",Colors\nA dog.,\n', [("A car, fast.", "Colors"), ("A dog.", "")]),
        ("parti.tsv", "Prompt\tCategory\tChallenge\na\tb\tc\n", [("a", "b")]),
        ("pick.jsonl", '{"caption": "a cat", "uid": 1}\n\n{"prompt": "a dog", "category": 3}\n"only a text"\n',
         [("a cat", ""), ("a dog", "3"), ("only a text", "")]),
        ("lines.csv", 'prompt\n"two\nlines"\n', [("two\nlines", "")]),
    ],
)  # fmt: skip
def test_files_as_users_have_them(tmp_path, name, content, found):
    assert [(prompt.text, prompt.category) for prompt in read(file(tmp_path, name, content))] == found


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("p.txt", "", "has no prompts"),
        ("p.txt", "# nothing but a remark\n", "has no prompts"),
        ("p.txt", b"a cat\na d\xffg\n", "line 2: not UTF-8"),
        ("p.txt", "a\0b\n", "line 1: a NUL"),
        ("p.csv", "text_id,words\n1,a\n", "line 1: none of the columns ['text_id', 'words'] is named prompt"),
        ("p.csv", "id,prompt\n1,a cat\n2\n", "line 3: the row has no column 'prompt'"),
        ("p.csv", "prompt,id\na cat,1\n  ,2\n", "line 3: the prompt is empty"),
        ("p.csv", 'prompt\n"open\n', "line 2: unexpected end"),
        ("p.csv", "", "line 1: none of the columns"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": \n', "line 2: not JSON"),
        ("p.jsonl", '{"prompt": 5}\n', "line 1: no text"),
        ("p.jsonl", "[1]\n", "line 1: no text"),
        ("p.jsonl", '{"words": "a"}\n', "line 1: no text"),
    ],
)
def test_broken_files_are_told_with_their_line(tmp_path, name, content, says):
    path = file(tmp_path, name, content)
    with pytest.raises(PromptsError) as told:
        read(path)
    assert says in str(told.value) and path in str(told.value)


def test_no_such_file_or_set():
    with pytest.raises(PromptsError, match="neither a file nor one of categories, paper, shapes"):
        read("no/such.txt")


def test_pairs_go_round_the_prompts_with_seeds_of_their_own(tmp_path):
    source = file(tmp_path, "p.txt", "a cat\na dog\n")
    pairs = pairs_of(source, 6, 2, 1)
    assert [pair.prompt for pair in pairs] == ["a cat", "a cat", "a dog", "a dog", "a cat", "a cat"]
    assert [pair.group for pair in pairs] == [0, 0, 1, 1, 0, 0] and [pair.number for pair in pairs] == list(range(6))
    assert len({pair.seed for pair in pairs}) == 6 and all(0 <= pair.seed < 2**31 for pair in pairs)
    assert pairs_of(source, 4, 2, 1) == pairs[:4] and pairs_of(source, None, 2, 1) == pairs[:4]
    assert pairs_of(source, 6, 2, 2) != pairs
    json.dumps([vars(pair) for pair in pairs])


def test_the_lab_s_pairs_are_those_of_its_own_evaluation():
    prompts, seeds, groups = lab_pairs(12, 5)
    pairs = pairs_of("shapes", 12, 2, 5)
    assert [pair.prompt for pair in pairs] == [str(prompt) for prompt in prompts]
    assert [pair.seed for pair in pairs] == [seed % 2**31 for seed in seeds] and [
        pair.group for pair in pairs
    ] == groups.tolist()
    assert Counter(pair.category for pair in pairs) == {"common": 6, "rare": 6}


@pytest.mark.parametrize(("count", "per_prompt", "seed"), [(0, 2, 1), (5, 0, 1), (5, 2, -1)])
def test_numbers_out_of_range(count, per_prompt, seed):
    with pytest.raises(ValueError, match="is not an integer from"):
        pairs_of("paper", count, per_prompt, seed)
