from vila_ops.why import key_differences

BASE = {
    "stage": "sft",
    "config": {"train": {"lr": 0.1, "steps": 3}},
    "inputs": {"data": "a" * 64},
    "code": {"digest": "1", "files": {"vila_core/x.py": "1", "vila_core/y.py": "1"}},
    "lock": "l",
}


def test_equal_keys_have_no_differences():
    assert key_differences(BASE, BASE) == []


def test_every_part_of_the_key_is_compared_and_named():
    after = {
        "stage": "sft",
        "config": {"train": {"lr": 0.2, "steps": 3, "clip": 1}},
        "inputs": {"data": "b" * 64},
        "code": {"digest": "2", "files": {"vila_core/x.py": "2", "vila_core/z.py": "1"}},
        "lock": "m",
    }
    assert [difference.text() for difference in key_differences(BASE, after)] == [
        "config train.clip: not there -> 1",
        "config train.lr: 0.1 -> 0.2",
        f"input data: {'a' * 12} -> {'b' * 12}",
        "code: vila_core/x.py was changed",
        "code: vila_core/y.py was removed",
        "code: vila_core/z.py was added",
        "lock file of pinned packages: l -> m",
    ]
