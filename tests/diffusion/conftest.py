"""What several tests of diffusion need."""

import pytest

from coterie.datasets.images import load_images
from coterie.diffusion.extractor import train_extractor


@pytest.fixture(scope="module")
def one_extractor():
    """The classifier is trained once for all studies of a file; it is tested with its own module."""
    made = train_extractor(load_images("digits"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coterie.diffusion.quality.train_extractor", lambda images, store=None: made)
        yield
