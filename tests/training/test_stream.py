import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coterie.errors import SettingError
from coterie.training.job import BatchStream, derive
from coterie.training.loop import Windows

sizes = st.tuples(st.integers(1, 40), st.integers(1, 12), st.integers(-5, 2**63))


@given(sizes)
def test_an_epoch_sees_each_row_once_but_for_a_single_last_one(size):
    n, batch_size, seed = size
    rows = torch.arange(n) * 3 + 1
    stream = BatchStream(rows, batch_size, seed)
    for epoch in range(2):
        batches = [stream.batch(epoch * stream.steps_per_epoch + s) for s in range(stream.steps_per_epoch)]
        seen = torch.cat(batches).tolist()
        dropped = n % batch_size == 1 and 1 < batch_size < n
        assert len(seen) == len(set(seen)) == n - dropped
        assert set(seen) <= set(rows.tolist())
        assert all(len(batch) == batch_size for batch in batches[:-1])
        assert all(len(batch) > 1 for batch in batches) or n == 1 or batch_size == 1


@given(sizes, st.integers(0, 30), st.integers(1, 20), st.integers(0, 3))
def test_windows_are_padded_batches(size, start, count, extra):
    n, batch_size, seed = size
    stream = BatchStream(torch.arange(n), batch_size, seed)
    window = BatchStream(torch.arange(n), batch_size, seed).window(start, start + count, stream.width + extra)
    assert window.shape == (count, stream.width + extra)
    for offset in range(count):
        batch = stream.batch(start + offset)
        assert window[offset, : len(batch)].tolist() == batch.tolist()
        assert (window[offset, len(batch) :] == -1).all()


def test_order_depends_on_seed_and_epoch_and_not_on_the_past():
    rows = torch.arange(50)
    a, b = BatchStream(rows, 10, 1), BatchStream(rows, 10, 2)
    assert not torch.equal(a.batch(0), b.batch(0))
    assert not torch.equal(a.order(0), a.order(1))
    later = a.batch(17)
    assert torch.equal(BatchStream(rows, 10, 1).batch(17), later)
    state = torch.get_rng_state()
    a.order(5)
    assert torch.equal(state, torch.get_rng_state())


def test_the_order_is_pinned():
    # a change of this order changes every stored result
    assert BatchStream(torch.arange(8), 4, 0).order(0).tolist() == [4, 1, 3, 5, 0, 2, 6, 7]
    assert derive(1, 2) != derive(2, 1)


def test_members_with_equal_streams_share_one_list_of_rows():
    import numpy as np

    def stream(n, seed):
        return BatchStream(torch.arange(n), 4, seed)

    same = Windows([stream(10, 0), stream(10, 0)], torch.device("cpu"))
    for step in range(150):
        rows, padded = same.rows(step, np.arange(2))
        assert rows.tolist() == stream(10, 0).batch(step).tolist()
        assert not padded
    mixed = Windows([stream(10, 0), stream(9, 0), stream(10, 0)], torch.device("cpu"))
    ids = np.arange(3)
    for step in range(150):
        ids = ids if step < 70 else np.array([0, 2])  # the odd one leaves: from here on the rows are shared
        rows, padded = mixed.rows(step, ids)
        if step >= 70:
            assert rows.dim() == 1
            continue
        assert padded == (bool((rows < 0).any()))
        for place, n in enumerate((10, 9, 10)):
            batch = stream(n, 0).batch(step).tolist()
            assert rows[place].tolist()[: len(batch)] == batch
            assert set(rows[place].tolist()[len(batch) :]) <= {-1}


def test_no_rows():
    with pytest.raises(SettingError, match="at least one row"):
        BatchStream(torch.arange(0), 4, 0)
