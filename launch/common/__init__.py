"""What the experiments and benchmarks share; nothing in here is started.

arguments         options of a script, and the flags after ``--`` that it passes on
benchmark         the format of all benchmarks: comparisons of costs, and the files of results
classifiers       the exports that benchmarks attack and examine, and how each is made
driver            many runs are brought to their ends, several at a time
equal_numbers     whether a mode of computing gives the numbers of float64
executors         where the processes of many runs work: on this machine, or on a Ray cluster
live              a table of many runs that is drawn again while they work
objectives        the training objectives that are compared, with what each needs
peers             networks in PyTorch, and one classifier for several libraries to be compared
runs              one run among many: its command, its directory and its log
timing            wall times of things measured in turn
torch_training    a step of adversarial training in PyTorch
"""
