"""Experiments of the two papers, one script each; a script's ``--help`` says what it computes and writes.

Tables of runs (`launch.common.experiment`), which start the commands of `advtf` in processes of their own:

mnist_schedules      constant, cosine and linear ε
mnist_epsilons       training dynamics for five ε; its models are those of the next three
mnist_hessian        the largest eigenvalues of the Hessian
mnist_landscapes     similarity of perturbations, loss surfaces
mnist_connectivity   curves between two minima
mnist_capacity       width of the network
cifar10_epsilons     training dynamics for four ε

In one process, with records that continue:

objectives              every training objective at equal settings
degraded_training       weaker training examples, a more curved landscape
weight_noise            curvature and the strength of attacks over variants of a classifier
pgd_convergence         how many steps PGD needs
sampling_faithfulness   how many images a measure needs
random_loss_scale       the loss at random weights
"""
