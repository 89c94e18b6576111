"""Composite scenes: garments at several distances on one canvas, with dense labels that are exact by construction.

The recipe, for garments of unit width seen by a pinhole camera:

1. A scene has 3 to 5 garments (`objects`), drawn with replacement from images that are given (28 x 28 Fashion-MNIST, or
   any square grey images). Each has a distance z, uniform between 1 and ``largest / smallest`` (1.75).
2. A garment at distance z is resized to round(``largest`` / z) pixels (28 to 16) and its intensity is divided by z.
   Its place is uniform among those where the whole square fits. Nearer garments hide farther ones.
3. A garment covers the pixels where the resized image exceeds 0.1, holes filled.
4. The background is at distance 2: smooth noise (an 8 x 8 grid of uniform values, upsampled) between 0.05 and 0.25.
   Gaussian noise of standard deviation 0.02 is added to the whole image, which is then cut to [0, 1].

So distance can be read from the image: from size, brightness and from who hides whom.

Labels of a pixel: ``segmentation`` is 0 on the background and class + 1 on a garment; ``depth`` is z; ``edges`` is 1
where a 4-neighbour belongs to something farther (a contour belongs to what is nearer); ``normals`` are unit normals of
the garment's relief, whose height is ``RELIEF`` pixels times its resized intensity, smoothed twice by a 3 x 3 binomial
filter, and NaN (no label) on the background.
"""

from coterie._earlier import earlier
from coterie._lazy import load_on_first_use
from coterie.adapters.scenes.compose import compose_scenes as compose_scenes  # examples imported it from here

__getattr__ = load_on_first_use(__name__, {}, earlier(__name__))
