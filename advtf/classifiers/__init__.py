"""Classifiers: what is attacked and analysed, on disk and in memory.

Read `classifier` first: `as_classifier` makes one type of a Keras model, a list of models, a SavedModel or a
function, and everything that attacks or analyses takes that type.

================  ======================================================================================
classifier        `Classifier` and its one loader
parameters        the trainable variables as one vector θ; directions in that space
export            SavedModels: written, reloaded and compared before they get their name; loaded
manifest          the file beside an export that tells what it takes and returns; the folder of exports
ensemble          one classifier out of several: the mean of their probabilities
pytorch           checkpoints of published PyTorch networks as Keras classifiers
pytorch_layouts   which of their modules is which of our layers
reference_logits  the logits that a network gave elsewhere, to compare its conversion with
================  ======================================================================================

`manifest`, `pytorch` and `reference_logits` import no TensorFlow, so that the commands answer a mistake at
once.
"""
