"""``python -m launch.cluster``: the workers of one training are started, and again where one is killed.

Read `attempts` first: what a training by several workers is asked for, and how an attempt at it ends.

attempts  what an attempt has in common wherever it works: flags of its workers, what they say, how it ended
here      the workers as processes of this machine
on_ray    the workers as those of Ray Train, on the machines of a cluster
"""
