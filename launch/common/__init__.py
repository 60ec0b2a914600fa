"""What the experiments and benchmarks share; nothing in here is started.

arguments         options of a script, and the flags after ``--`` that it passes on
benchmark         the format of all benchmarks: comparisons of costs, and the files of results
experiment        a table of runs and their figures: what is finished is not repeated
input_landscape   experiments on the loss around images, with records that continue
objectives        the training objectives that are compared, with what each needs
peers             one classifier in TensorFlow and in PyTorch, for libraries to be compared
timing            wall times of two things measured in turn
"""
