"""The order of the files that MNIST and CIFAR-10 were published as, restored from what TFDS stores.

TFDS writes the examples of a split in the order of md5(name of the split + key), so that "the first 1,000
test images" are other images than those of everybody who reads the published files. Here the published order
is restored, and checked: every bit of MNIST, and the labels of CIFAR-10.
"""

import hashlib
import struct

import numpy as np

# MD5 of the uncompressed files, images and labels.
MNIST_FILES = {
    "train": ("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624"),
    "test": ("2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
}

# The first 4 bytes of the SHA-256 of the labels, as bytes, of every thousand images of data_batch_1 to 5 and
# of test_batch.
CIFAR10_LABELS = {
    "train": """
        b8cafe51 eb317336 67465f17 784e1602 5eaac391 54a79661 afd21b3f dc1889b8 1edc793c e6a9b27d
        ec75ca2d 84c9b3bf d3d38c4d 06262b25 adfb78a5 699f35f3 a5f8ac9c fa96011a ff9ba4fd fc6073ab
        34302e7e 7ecdc389 ba8ff8b8 24dd70cb 9a21d3e1 93204306 3c37ffb6 99eaac45 6d0c6454 41d4c0f5
        5546dd8e 54d2edef c2e4f5bd 7ca53be3 8c89c9e4 e5e5e72d 439d5d90 8f045f39 e147b50a afa856ad
        6ac85fb3 fd698a3d c982e8de d5cc9b88 d18b7685 0f085d3c 6be41075 ca6ee811 dad91a1c 1fd0fcd0
    """,
    "test": "636a087e 41adaaa3 1e92c6a8 e00f051f 2a036806 85b48eca 7c065a79 58f9df29 7e40250f 6f07ab55",
}
BLOCK = 1000  # labels to a digest

Restored = tuple[np.ndarray, np.ndarray, int]  # images, labels, and how many of them, the first, are checked


def mnist(split: str, images: np.ndarray, labels: np.ndarray, numbers: None = None) -> Restored:
    """Restores MNIST, whose key is an example's position in the published files.

    Args:
        split: "train" or "test".
        images: uint8 (N, H, W, 1), as stored.
        labels: int32 (N,).
        numbers: not needed.

    Returns:
        Images and labels in the order of the files, and N; or 0 where their bytes are not those of the files.
    """
    count = len(labels)
    stored = sorted(range(count), key=lambda i: hashlib.md5(f"{split}{i}".encode()).digest())
    places = np.argsort(stored)
    images, labels = images[places], labels[places]
    headers = struct.pack(">4i", 2051, count, *images.shape[1:3]), struct.pack(">2i", 2049, count)
    contents = zip(headers, (images, labels.astype(np.uint8)), strict=True)
    found = tuple(hashlib.md5(header + part.tobytes()).hexdigest() for header, part in contents)
    return images, labels, count if found == MNIST_FILES[split] else 0


def cifar10(split: str, images: np.ndarray, labels: np.ndarray, numbers: np.ndarray) -> Restored:
    """Restores CIFAR-10, whose feature `id` is ``test_01234`` for the image of that number, counted from 0.

    Args:
        split: "train", the five batches one after another, or "test".
        images: uint8 (N, 32, 32, 3), as stored.
        labels: int32 (N,).
        numbers: the ids, bytes (N,).

    Returns:
        Images and labels in the order of the ids, and for how many of them, from the first on, the labels are
        those of the files; 0 where the ids do not count the images.
    """
    expected = [f"{split}_{number:05d}".encode() for number in range(len(labels))]
    places = np.argsort(numbers)  # five digits: the order of the texts is that of the numbers
    if list(numbers[places]) != expected:
        return images, labels, 0
    images, labels, checked = images[places], labels[places], 0
    for digest in CIFAR10_LABELS[split].split():
        block = labels[checked : checked + BLOCK].astype(np.uint8).tobytes()
        if hashlib.sha256(block).hexdigest()[:8] != digest:
            break
        checked += BLOCK
    return images, labels, min(checked, len(labels))
