"""Files that appear whole or not at all, and the directories of runs.

Read `run_directory` first: the states of a run, who may write to it, and how it is continued.

==============  ====================================================================================
run_directory   the directory of a training, an evaluation or an analysis, and its lock
identity        which run has made an export: what survives ``--overwrite`` of a copied or moved run
files           files and folders that appear whole; versions and command for result files
jsonl           files of one JSON object per line, such as `metrics.jsonl`
builders        how attacks and objectives were built, so that Keras can save them with a trainer
cache           results of finished work, by which a killed evaluation or analysis continues
==============  ====================================================================================
"""
