"""Image data: sets by name, arrays of one's own, and batches for training and evaluation.

- `registry`: the data sets by name and the training settings that belong to them. Read it first.
- `sets`: `Split`, `ImageData`, `load` and `from_arrays`; `arrays` checks what comes in.
- `batches`: batches that are functions of (seed, step), so that a resumed run sees the same images.
- `stored`: images that stay on the disk, for data sets larger than memory.
- `augmentation`: crop, flip and resizing of whole batches.
- `digits`, `tfds`, `tiny_imagenet`: the readers.
"""
