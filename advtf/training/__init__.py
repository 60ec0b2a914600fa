"""Adversarial training: what a step minimises, the step itself, and a whole run around it.

Read `trainer` first: `AdversarialTrainer.train_step` is one batch from its images to the updated weights.
Then read `run`, where the settings of a run become a classifier, a trainer and callbacks, and where it trains
to its end.

=====================  ====================================================================================
settings, presets      the settings of a run and their checks, and the values for a data set and a model
methods                the registries of objectives and training adversaries, by the names of their flags
trainer                the Keras model whose compiled step attacks a batch and then updates the weights
checks                 what a trainer refuses before the first step, and the loss that ends a training
image_metrics          the metrics of `compile`, on clean and on attacked images
objectives             what a step minimises: adversarial training, TRADES, MART
regularizers           adversarial training with a penalty: AdvLC, IGR, CURE, GradAlign and others
weight_perturbation    adversarial weight perturbation (AWP)
optimizers             SGD and Adam with the update rules of PyTorch
schedules              ε and the learning rate as functions of the position in the training
averaging              averages of the weights along the training (SWA, EMA)
callbacks              one callback per job: schedules, measurements, snapshots
logs                   the record of every epoch, in `metrics.jsonl` and for TensorBoard
checkpoint             state files, and the callback that saves a run and continues it
run                    builds the trainer and the callbacks of a run, and trains
directory              the files of a run: a contract that other tools read
results                test errors, figures and exports of a finished run
curve                  the training of a curve between two minima (mode connectivity)
=====================  ====================================================================================

`settings`, `methods`, `schedules` and `directory` import no TensorFlow, so that the commands answer a wrong
flag at once.
"""
