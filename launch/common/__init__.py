"""What the experiments and benchmarks share; nothing in here is started.

arguments         options of a script, and the flags after ``--`` that it passes on
benchmark         the format of all benchmarks: comparisons of costs, and the files of results
classifiers       the exports that benchmarks attack and examine, and how each is made
equal_numbers     whether a mode of computing gives the numbers of float64
experiment        a table of runs and their figures: what is finished is not repeated
input_landscape   experiments on the loss around images, with records that continue
objectives        the training objectives that are compared, with what each needs
peers             networks in PyTorch, and one classifier for several libraries to be compared
timing            wall times of things measured in turn
torch_training    a step of adversarial training in PyTorch
"""
