"""What does not fit into memory is refused before it is made."""

import os

import pytest

from advtf.errors import UsageError
from advtf.settings import memory
from advtf.settings.memory import gigabytes, machine_memory, require_memory


def test_the_memory_is_that_of_the_machine_or_of_its_container(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_GROUP_LIMIT", limit)
    with open("/proc/meminfo") as lines:
        kilobytes = int(next(lines).split()[1])
    assert machine_memory() == pytest.approx(1024 * kilobytes, rel=1e-3)
    limit.write_text("max\n")
    assert machine_memory() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit.write_text("1000000\n")
    assert machine_memory() == 10**6


def test_what_does_not_fit_is_refused_with_its_size(monkeypatch):
    monkeypatch.setattr(memory, "machine_memory", lambda: 16 * 10**9)
    require_memory("the set", 16 * 10**9, "n=1", "Take less.")
    with pytest.raises(UsageError) as caught:
        require_memory("the set", 17 * 10**9, "n=1", "Take less.")
    assert str(caught.value) == (
        "the set must fit into memory, 16 GB here. Received: n=1, at least 17 GB. Take less."
    )


@pytest.mark.parametrize(
    ("size", "shown"), [(1.5e9, "1.5 GB"), (64e6, "0.064 GB"), (5237127.2e9, "5,237,127 GB")]
)
def test_gigabytes(size, shown):
    assert gigabytes(size) == shown
