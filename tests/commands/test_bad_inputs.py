"""What a user can get wrong on a command line, in one table: each mistake is answered by one line, at once.

The commands run in forks of one process (`helpers.worker`), in a folder with the files that `prepared` makes.
A mistake must end in exit code 2 and one line on stderr that says what was received, must not import
TensorFlow, and must change nothing on the disk.
"""

import json
import re

import numpy as np
import pytest
from helpers import worker

from advtf.classifiers.manifest import make_manifest, write_manifest
from advtf.data.prepared import INFO, SHARD_NAMES
from advtf.evaluation.run import EvaluateOptions
from advtf.evaluation.settings import AttackSettings
from advtf.training.settings import RunOptions, TrainConfig

HUGE = str(10**20)
LONG = "x" * 3000
EMPTY = "''"  # how a message shows an empty text
MODEL = "--model=exports/good"
ATTACK = (MODEL, "--attacks=pgd")
HESSIAN = (MODEL, "--study=hessian")
CHECKPOINT = ("--checkpoint=state.npz", "--out_dir=converted")


def received(argument):
    """The pattern of a message about one flag: its name, and what was given."""
    name, _, value = argument.removeprefix("--").partition("=")
    return rf"{name} must be .*Received: {name}={re.escape(value) or EMPTY}[ .,]"


def each(*arguments, beside=()):
    """A case for each argument, beside others; its message names the flag and what was received."""
    return [([*beside, argument], received(argument)) for argument in arguments]


# What is typed wrongly: the same for every command.
TYPED = [
    (["--frobnicate=1"], "--help lists. Received: --frobnicate"),
    (["--verbos"], r"Did you mean --verbose\?"),
    (["--VERBOSE"], r"Did you mean --verbose\?"),
    (["--no-verbose"], r"Received: --no-verbose\."),
    (["--noverbose=1"], "--noverbose takes no value. Received: --noverbose=1"),
    (["--verbose=maybe"], "verbose must be true or false. Received: verbose=maybe"),
    (["--verbose="], "verbose must be true or false. Received: verbose=''"),
    (["--verbose", "true"], "--name=value.* Received: true"),
    (["--out_dir"], "--out_dir needs a value, as in --out_dir=VALUE"),
    (["--out_dir", "--verbose"], "--out_dir needs a value"),
    (["--out_dir="], "out_dir must be a non-empty text .*Received: out_dir=''"),
    (["--out_dir= "], "out_dir must be a non-empty text .*Received: out_dir=' '"),
    (["out_dir=x"], "--name=value.* Received: out_dir=x"),
    (["—out_dir=x"], "with two hyphens.* Received: —out_dir=x"),
    (["-"], r"--name=value.* Received: -\."),
    (["--"], r"--name=value.* Received: --\."),
    (["--=3"], "--name=value.* Received: --=3"),
    (["---out_dir=x"], r"Did you mean --out_dir\?"),
    (["train"], "--name=value.* Received: train"),
    (["--out_dir=x", "y"], "--name=value.* Received: y"),
    (["--" + LONG], r"Received: --x+… \(3,000 characters\)"),
    (["--schlüssel=1"], "Received: --schlüssel"),
    (["--flagfile="], "flagfile must be .* Received: --flagfile without a name"),
    (["--flagfile"], "Received: --flagfile without a name"),
    (["--flagfile=missing.flags"], "flagfile=missing.flags, which does not exist"),
    (["--flagfile=foreign"], r"Received: flagfile=.*foreign \(Is a directory\)"),
    (["--flagfile=binary.flags"], "not text in UTF-8"),
    (["--flagfile=circle.flags"], "must not include itself"),
    (["--flagfile=words.flags"], r"Received: eps=0.1 \(.*words.flags, line 2\)"),
    (["--flagfile=unknown.flags"], "--help lists. Received: --frobnicate"),
    (["--undefok=frobnicate", "--frobnicate"], "Received: --undefok"),
    (["--run_with_pdb"], "Received: --run_with_pdb"),
]

MAIN = [
    # Flags that are called otherwise
    (["--ep=1"], r"Did you mean --eps\?"),
    (["--epsilon=1"], r"Did you mean --eps\?"),
    (["--learning_rate=1"], r"Did you mean --lr\?"),
    (["--batch-size=3"], r"Did you mean --batch_size\?"),
    (["--Epochs=3"], r"Did you mean --epochs\?"),
    (["--optim=sgd"], r"Did you mean --optimizer\?"),
    (["--attack=pgd"], r"Did you mean --attack_steps, --attack_step_size or --attack_mode\?"),
    (["--noeps"], r"Did you mean --eps\?"),
    (["--xyz"], r"Received: --xyz\.$"),
    # Numbers
    *each("--epochs=0", "--epochs=-3", "--epochs=1.5", "--epochs=1e20", f"--epochs={HUGE}", "--epochs=nan"),
    *each("--epochs=ten", "--batch_size=0", f"--batch_size={HUGE}", "--attack_steps=0", "--seed=-1"),
    *each("--seed=4294967296", "--steps_per_epoch=0", "--eval_examples=0", f"--eval_examples={HUGE}"),
    *each("--eval_restarts=0", "--image_size=7", "--image_size=-28", "--width=0", "--width=1/2", "--depth=9"),
    *each("--eps=-0.1", "--eps=nan", "--eps=inf", "--eps=-inf", "--eps=1e400", "--eps=8/0", "--eps=8/255/2"),
    *each("--eps=8:255", "--eps=0,03", "--eps=ε", "--eps=true", "--eps=none", "--eps=8/", "--eps=eps"),
    (["--eps=8"], "eps must be in .*Received: eps=8; 8 probably means 8/255"),
    (["--eps=255/8"], "eps must be in .*Received: eps=31.875"),
    (["--eps=51", "--norm=l2"], r"eps must be in \[0, 50\] for l2.*Received: eps=51"),
    (["--eps", "-1"], "eps must be .*Received: eps=-1"),
    (["--eps_max=3"], "eps_max must be in .*Received: eps_max=3"),
    (["--eps_min=0.5"], "eps_min must be at most eps.*Received: eps_min=0.5"),
    *each("--eps_min=-1", "--eps_max=-1", "--lr=0", "--lr=-1e-3", "--lr=inf", "--momentum=1", "--awp=-1"),
    *each("--weight_decay=-1", "--lr_factor=0", "--lr_factor=2", "--lr_warmup=-1", "--val_fraction=0.6"),
    *each("--train_examples=0", "--train_examples=1e3"),
    (["--train_examples=1296"], "the 1295 training examples that are not held out.*train_examples=1296"),
    (["--images=disk"], "images=disk needs .*Received: dataset=digits, .*Use --images=auto"),
    (["--train_examples=60"], "batch_size must be between 1 and the 60 examples"),
    *each("--val_fraction=50%", "--strength=-1", "--temperature=0", "--advlc_fraction=0", "--swa_start=-1"),
    *each("--advlc_fraction=1.1", "--ema_decay=1", "--swa_every=0", "--checkpoint_minutes=0"),
    *each("--lr=1e300", "--lr=1e-300", "--weight_decay=1e39", "--checkpoint_minutes=1e300"),
    (["--periods=1e300"], r"periods must be whole epochs.*Received: periods=10+.*… \(301 characters\)"),
    *each("--dynamics_steps=0", "--input_every=0", "--input_examples=0"),
    *each(
        "--attack_step_size=0", "--attack_step_size=-eps", "--attack_step_size=eps*3", "--attack_step_size="
    ),
    (["--attack_step_size=3"], "attack_step_size must be at most 2.5 times ε. Received: attack_step_size=3"),
    # Names
    *each("--model=resnet-18", "--model=ResNet18", "--norm=L2", "--norm=l1", "--objective=AT", "--jit=yes"),
    *each("--adversary=pdg", "--eps_sched=cos", "--lr_sched=steps", "--optimizer=adamw", "--precision=fp16"),
    *each("--strategy=ddp", "--averaging=polyak", "--activation=swish", "--random_start=zero"),
    *each("--schedule_unit=batch", "--attack_mode=eval", "--advlc_distance=l3", "--select_on=train"),
    (["--model=ResNet18"], "Did you mean 'resnet18'"),
    (["--objective=AT"], "Did you mean 'at'"),
    (["--dataset="], "dataset must be a data set name.* Received: dataset=''"),
    *each("--dataset=../x", "--dataset=a b", "--dataset=mnist;rm", "--dataset=/etc/passwd"),
    (["--dataset=cifar-10"], "Did you mean 'cifar10'"),
    (["--dataset=MNIST"], "Did you mean 'mnist'"),
    (["--dataset=digist"], "Received: dataset=digist.* Did you mean 'digits'"),
    # What other settings or data sets do not have
    (["--order=published", "--dataset=cifar100"], "order=published needs .*Received: dataset=cifar100"),
    (["--dataset=tiny_imagenet"], "tiny_imagenet must lie in .*Received: dataset=tiny_imagenet"),
    (["--shortcut=raw", "--model=resnet18"], "has no choice of shortcuts. Received: shortcut=raw"),
    (["--stride_in=first"], "has no choice of where it strides. Received: stride_in=first"),
    (["--deterministic", "--jit=on"], "deterministic excludes XLA.*Received: deterministic=true, jit=on"),
    (["--dataset=mnist:x"], "version of a data set must be .*Received: dataset=mnist:x"),
    *each("--order=random", "--shortcut=rawish", "--stride_in=third"),
    # Lists
    *each("--periods=0.75,0.5", "--periods=5,5", "--periods=a", "--periods=-1", "--periods=1,,2"),
    *each("--periods=0.5,100", beside=["--epochs=200"]),
    *each("--periods=5,12", beside=["--epochs=10"]),
    *each("--lr_milestones=5,9", beside=["--lr_sched=step"]),
    (["--lr_sched=step", "--lr_milestones=none"], "as lr_milestones. Received: lr_milestones=none"),
    (["--lr_sched=warmup", "--lr_warmup=20"], "lr_warmup must fit .* Received: lr_warmup=20"),
    *each("--teachers=a", "--teachers=a,b,c"),
    # What contradicts
    (["--momentum=0.9", "--optimizer=adam"], "momentum needs optimizer=sgd"),
    (["--nesterov", "--optimizer=sgd", "--momentum=0"], "nesterov needs momentum above 0"),
    (["--decoupled_weight_decay"], "decoupled_weight_decay needs weight_decay above 0"),
    (
        ["--eps_max=0.1", "--eps_sched=constant"],
        "eps_max needs eps_sched=linear or cosine. Received: eps_max=0.1",
    ),
    (
        ["--lr_milestones=0.5"],
        "lr_milestones needs lr_sched=step or exponential. Received: lr_milestones=0.5",
    ),
    (["--teachers=a,b"], "teachers needs objective=kdsa. Received: teachers=a,b"),
    (["--objective=kdsa"], "kdsa needs two teachers. Received: no --teachers"),
    (
        ["--objective=kdsa", "--teachers=exports/good,a"],
        "teachers must be the folder of a SavedModel.*teachers=a",
    ),
    (["--objective=consistency"], "consistency compares .*augment=False"),
    (["--objective=at", "--adversary=none"], "at needs an adversary. Received: adversary=none"),
    (["--objective=trades", "--random_start=none"], "trades needs a random start.*random_start=none"),
    (["--strength=1"], "strength needs objective=.*Received: strength=1 with objective=at"),
    (["--temperature=2"], "temperature needs objective=consistency or kdsa"),
    (["--noised_clean"], "noised_clean needs adversary=fgsm_n. Received: adversary=pgd"),
    (["--swa_start=0.5"], "swa_start needs averaging=swa"),
    (["--ema_decay=0.9"], "ema_decay needs averaging=ema"),
    (["--averaging=swa", "--swa_start=50"], "swa_start must be .*Received: swa_start=50"),
    (["--awp=0.01", "--strategy=mirrored"], "awp works on one device"),
    (["--jit=on", "--strategy=mirrored"], "jit=on works on one device"),
    (["--select_on=test", "--val_fraction=0.1"], "Received: val_fraction=0.1"),
    (["--eval_restarts=5", "--random_start=none"], "Received: eval_restarts=5"),
    (["--width=3", "--model=linear"], "linear model has no width. Received: width=3"),
    (["--depth=34"], "the depth of lenet is fixed. Received: depth=34"),
    (["--depth=11", "--model=wide_resnet"], "depth must be 6n . 4.*Received: depth=11"),
    # More than any memory
    (["--width=100000"], "must fit into memory.*Received: .*width=100000.*at least [0-9,]+ GB"),
    (["--image_size=100000"], "must fit into memory.*Received: .*image_size=100000.*at least [0-9,]+ GB"),
    (["--batch_size=2000000000"], "must fit into memory.*Received: .*batch_size=2000000000"),
    (["--model=wide_resnet", "--depth=1000", "--width=5000"], "must fit into memory.*width=5000"),
    # Recipes
    (["--recipe="], "Received: --recipe without a name"),
    (["--recipe"], "Received: --recipe without a name"),
    (["--recipe=liu2020/cifar10_resnet18_cosin"], "Did you mean 'liu2020/cifar10_resnet18_cosine'"),
    (["--recipe=../../etc/passwd"], "recipe must be .*Received: recipe=../../etc/passwd"),
    (["--recipe=a", "--recipe=b"], "one recipe can be given. Received: recipe=a and recipe=b"),
    (["--recipe=liu2020/mnist_lenet_cosine", "--eps=8"], "Received: eps=8; 8 probably means 8/255"),
    (["--eps=8", "--recipe=liu2020/mnist_lenet_cosine"], "Received: eps=8; 8 probably means 8/255"),
    # Where it reads and writes
    (["--resume", "--overwrite"], "resume and overwrite exclude each other"),
    (["--resume"], "--resume requires|--resume"),
    (["--resume", "--out_dir=missing"], "--resume requires.*missing"),
    (["--resume", "--out_dir=foreign"], "no config.json.*Give the --out_dir of the run"),
    (["--out_dir=a\nb"], r"out_dir must be .*Received: out_dir='a\\nb'"),
    (["--out_dir=\x1b[31m"], r"out_dir must be .*Received: out_dir='\\x1b\[31m'"),
    (["--out_dir=\udcff"], r"out_dir must be .*Received: out_dir='\\udcff'"),
    (["--out_dir=foreign"], "holds other files"),
    (["--out_dir=foreign", "--overwrite"], "holds other files"),
    (["--out_dir=foreign/thesis.tex"], "out_dir must be .*thesis.tex"),
    (["--out_dir=foreign/thesis.tex/run"], "out_dir must be .*thesis.tex"),
    (["--out_dir=/dev/null/run"], "out_dir must be .*/dev/null/run"),
    (["--out_dir=" + LONG], r"out_dir must be .*x+"),
    (["--out_dir=training"], "--overwrite to replace it or --resume"),
    (["--out_dir=training", "--resume", "--epochs=7"], "epochs=6. Received: epochs=7"),
    (["--out_dir=training", "--resume", "--periods=0.5"], "periods=3,5. Received: periods=3."),
    (["--out_dir=partial", "--resume"], "TrainConfig needs every setting"),
    (["--out_dir=damaged", "--resume"], "damaged/config.json must be"),
    (["--out_dir=a_list", "--resume"], "a_list/config.json must be"),
    (["--out_dir=evaluation"], "evaluation"),
    (["--out_dir=evaluation", "--overwrite"], "evaluation"),
    (["--export_dir="], "export_dir must be a non-empty text"),
    (["--export_dir=foreign"], "export_dir must be .*foreign"),
    (["--export_dir=foreign/thesis.tex"], "export_dir must be .*thesis.tex"),
    (["--export_dir=x", "--out_dir=x"], "export_dir"),
    (["--data_dir="], "data_dir must be a non-empty text"),
    (["--batch_size=1296"], "between 1 and the 1295 examples there are. Received: batch_size=1296"),
]

EVALUATE = [
    ([], "model must be given. Received: no --model"),
    (["--model=missing"], "model must be the folder of a SavedModel. Received: model=missing"),
    (["--model=exports"], "model must be the folder of a SavedModel.*SavedModels there: .*exports/good, "),
    (["--model=."], "model must be the folder of a SavedModel.*SavedModels there: .*exports/good, "),
    (["--model=exports/goood"], r"Did you mean 'good'\?"),
    (["--model=foreign/thesis.tex"], "model must be the folder of a SavedModel"),
    (["--model="], "model must be a non-empty text"),
    (["--model=exports/plain"], "dataset must be given.*Received: no --dataset"),
    (["--model=exports/damaged"], "exports/damaged/manifest.json must be"),
    (["--model=exports/wrong"], "exports/wrong/manifest.json must be .*num_classes"),
    *each("--attacks=", "--attacks=autoatack", "--attacks=,", "--attacks=pgd,", beside=[MODEL]),
    ([MODEL, "--attacks=pgd,square,fba"], r"attacks must be .*Received: attacks=fba\. Did you mean 'fab'\?"),
    ([MODEL, "--attacks=autoatack"], r"Did you mean 'autoattack'\?"),
    ([MODEL, "--attacks=pgd,squar"], r"Did you mean 'square'\?"),
    ([MODEL, "--attack=pgd"], r"Did you mean --attacks\?"),
    ([MODEL, "--epsilon=0.1"], r"Did you mean --eps\?"),
    ([*ATTACK, "--eps=8"], "eps must be .*Received: eps=8; 8 probably means 8/255"),
    *each("--eps=-1", "--eps=nan", "--eps=8/0", "--steps=0", "--restarts=0", "--queries=0", beside=ATTACK),
    *each(
        "--targets=0", "--targets=10", "--pgd_steps=0", "--pgd_step_size=0", "--batch_size=0", beside=ATTACK
    ),
    *each(f"--queries={HUGE}", f"--batch_size={HUGE}", f"--num_examples={HUGE}", beside=ATTACK),
    *each("--num_examples=0", "--num_examples=-5", "--num_examples=1e3", "--seed=-1", beside=ATTACK),
    *each("--norm=l1", "--outputs=softmax", "--jit=maybe", beside=ATTACK),
    ([*ATTACK, "--pgd_step_size=3"], "pgd_step_size must be at most 2.5 times ε"),
    *each("--eps_grid=a", "--eps_grid=-1", "--eps_grid=0.2,0.1", beside=ATTACK),
    ([*ATTACK, "--eps_grid=4,8"], "eps_grid must be in .*Received: eps_grid=4"),
    ([*ATTACK, "--dataset=digist"], r"Did you mean 'digits'\?"),
    ([*ATTACK, "--dataset=a b"], "dataset must be .*Received: dataset=a b"),
    ([*ATTACK, "--order=published", "--dataset=cifar100"], "Received: dataset=cifar100"),
    ([*ATTACK, "--deterministic", "--jit=on"], "Received: deterministic=true, jit=on"),
    ([*ATTACK, "--data_dir="], "data_dir must be a non-empty text"),
    ([*ATTACK, "--out_dir=foreign"], "holds other files"),
    ([*ATTACK, "--out_dir=training"], "training"),
    ([*ATTACK, "--out_dir=evaluation"], "--overwrite to replace it or --resume"),
    ([*ATTACK, "--out_dir=/dev/null/x"], "out_dir must be .*/dev/null/x"),
    (["--resume", "--overwrite"], "exclude each other"),
    (["--out_dir=missing", "--resume"], "--resume requires"),
    (["--out_dir=evaluation", "--resume", "--eps=0.3"], "Received: eps=0.3"),
    (["--out_dir=damaged", "--resume"], "damaged"),
    ([*ATTACK, "--recipe=liu2020/mnist_lenet_cosine"], "Received: --recipe"),
]

ANALYZE = [
    ([], "study must be given. Received: no --study"),
    (["--study="], "study must be given"),
    (["--study=hesian"], r"Received: study=hesian\. Did you mean 'hessian'\?"),
    (["--study=hessian,hessian"], r"each once, .*Received: study=hessian,hessian\.$"),
    (["--study=hessian,,surface"], "Received: study=hessian,,surface"),
    (["--study=hessian,surfaces"], r"Did you mean 'surface'\?"),
    (["--study=hessian"], "model"),
    (
        ["--study=hessian", "--model=missing"],
        "model must be the folder of a SavedModel. Received: model=missing",
    ),
    (["--study=connectivity", MODEL], "connectivity"),
    (["--study=dynamics"], "run_dirs|model"),
    (["--study=dynamics", "--run_dirs=missing"], "missing"),
    *each("--eps=-1", "--eps=nan", "--attack_steps=0", "--attack_step_size=0", "--norm=l3", beside=HESSIAN),
    ([*HESSIAN, "--basis_size=3"], "basis_size must be at least 22 .*Received: basis_size=3"),
    ([*HESSIAN, "--eps=8"], "Received: eps=8; 8 probably means 8/255"),
    *each("--num_examples=0", f"--num_examples={HUGE}", "--batch_size=0", "--seed=-1", beside=HESSIAN),
    *each("--split=val", "--random_start=zero", "--jit=1", beside=HESSIAN),
    *each("--eigenvalues=0", f"--eigenvalues={HUGE}", "--eigenvalues=20000", beside=HESSIAN),
    *each("--max_products=0", "--basis_size=1", "--normalise_draws=-1", beside=HESSIAN),
    *each(
        "--surface_points=2", "--surface_points=100000", "--surface_dims=3", beside=[MODEL, "--study=surface"]
    ),
    *each("--surface_radius=0", "--surface_radius=nan", beside=[MODEL, "--study=surface"]),
    *each("--density_probes=0", f"--density_steps={HUGE}", beside=[MODEL, "--study=density"]),
    *each("--curve_order=1", "--curve_order=11", "--curve_points=1", "--curve_epochs=0", "--curve_lr=0"),
    *each("--runs=0", "--hs_examples=-1", "--reference_steps=0", "--input_eigenvalues=5000"),
    ([*HESSIAN, "--dataset=digist"], r"Did you mean 'digits'\?"),
    ([*HESSIAN, "--out_dir=foreign"], "holds other files"),
    ([*HESSIAN, "--out_dir=training"], "training"),
    ([*HESSIAN, "--out_dir=/dev/null/x"], "out_dir must be .*/dev/null/x"),
    (["--resume", "--overwrite"], "exclude each other"),
    (["--out_dir=missing", "--resume"], "--resume requires"),
    (["--out_dir=damaged", "--resume"], "damaged"),
    ([MODEL, "--order=published", "--study=hessian", "--dataset=cifar100"], "order|Received: "),
    ([MODEL, "--studys=hessian"], r"Did you mean --study\?"),
    ([MODEL, "--epochs=3"], "Received: --epochs"),
]

CONVERT = [
    ([], "checkpoint must be given. Received: no --checkpoint"),
    (["--checkpoint=state.npz"], "out_dir must be given. Received: no --out_dir"),
    (["--checkpoint=missing.pt", "--out_dir=converted"], "checkpoint .*missing.pt"),
    (["--checkpoint=foreign", "--out_dir=converted"], "checkpoint .*foreign"),
    (["--checkpoint=foreign/thesis.tex", "--out_dir=converted"], "checkpoint .*thesis.tex"),
    (["--checkpoint=empty.npz", "--out_dir=converted"], "empty.npz"),
    (["--checkpoint=cut.npz", "--out_dir=converted"], "cut.npz"),
    (["--checkpoint=pointer.pt", "--out_dir=converted"], "Run git lfs pull"),
    (
        ["--checkpoint=state.npz", "--out_dir=converted", "--entry=ema"],
        "without entries. Received: entry=ema",
    ),
    (["--checkpoint=numbers.npz", "--out_dir=converted"], "must hold a state dict.*Received: a"),
    ([*CHECKPOINT, "--check_images=missing.npz"], "check_images must be .*Received: missing.npz"),
    ([*CHECKPOINT, "--check_images=foreign/thesis.tex"], "check_images must be .*thesis.tex"),
    ([*CHECKPOINT, "--out_dir=exports/good"], "out_dir must be free. Received: out_dir=exports/good"),
    ([*CHECKPOINT, "--out_dir=/dev/null/x"], "out_dir must be .*/dev/null"),
    *each(
        "--model=lenett",
        "--model=mlp",
        "--shortcut=rawish",
        "--stride_in=3",
        "--std=0",
        "--std=-1",
        beside=CHECKPOINT,
    ),
    (["--checkpoint=", "--out_dir=converted"], "checkpoint must be a non-empty text"),
    *each("--activation=swish", "--activation=", "--mean=a", "--std=1,,2", "--mean=nan", beside=CHECKPOINT),
    *each(
        "--image_size=0", "--image_size=-3", f"--image_size={HUGE}", "--image_size=32x32", beside=CHECKPOINT
    ),
    *each("--shortcut=row", "--shortcut=", "--stride_in=3", beside=CHECKPOINT),
    ([*CHECKPOINT, "--check_images=missing.npz"], r"check_images must be an .* missing\.npz, .* not a file"),
    ([*CHECKPOINT, "--check_images=cut.npz"], r"check_images must be an NPZ file .*Received: cut\.npz"),
    ([*CHECKPOINT, "--check_images=state.npz"], r"arrays images and logits.* state\.npz with conv1"),
    ([*CHECKPOINT, "--check-images=x.npz"], "Did you mean --check_images"),
    ([*CHECKPOINT, "--image_size=10000000"], "must fit into memory.*Received: image_size=10000000"),
    ([*CHECKPOINT, "--out_dir=foreign"], "out_dir must be free .*Received: out_dir=foreign"),
    ([*CHECKPOINT, "--resume"], "Received: --resume"),
    ([*CHECKPOINT, "--file=x"], "Received: --file"),
]

# What is wrong with data: the same for every command that reads them, each with flags of its own.
DATA = [
    (["--dataset=mnist:abc"], "must be three numbers.* Received: dataset=mnist:abc"),
    (["--dataset=mnist:3.0"], "must be three numbers.* Received: dataset=mnist:3.0"),
    (["--dataset=mnist", "--data_dir=foreign/thesis.tex"], r"data_dir must be .*thesis.tex \(a file\)"),
    (["--dataset=mnist", "--data_dir=half_prepared"], "mnist/3.0.1: it has no dataset_info.json. Remove"),
    (["--dataset=mnist:3.0.1", "--data_dir=half_prepared"], "mnist/3.0.1: it has no dataset_info.json"),
    (["--dataset=cifar10", "--data_dir=half_prepared"], "cifar10/3.0.2: .* bytes of at least 1,000. Remove"),
    (["--dataset=cifra10"], "Received: dataset=cifra10. Did you mean 'cifar10'"),
    (["--dataset=fashion_mnist", "--order=published"], "published order is known: digits, mnist, cifar10"),
    (["--order=publishd"], "order must be .*Did you mean 'published'"),
]

REPORT = [
    ([], "run must be given. Received: no --run"),
    (["--run="], "run must be given"),
    (["--run=training,training"], "run must be folders with commas between, each once"),
    (["--run=trainig"], r"run=trainig \(No such file or directory\)\. Did you mean 'training'\?"),
    (["--run=foreign"], "Received: run=foreign, which holds none of them"),
    (["--run=foreign/thesis.tex"], r"run=foreign/thesis.tex \(Not a directory\)"),
    (["--run=exports"], "Received: run=exports, which holds .*good.*. Give one or more of these"),
    (["--run=exports/plain"], "Received: run=exports/plain, a SavedModel without a manifest"),
    (["--run=exports/damaged"], "exports/damaged/manifest.json must be"),
    (["--run=damaged"], "run=damaged, whose config.json is damaged or of another program"),
    (["--run=a_list"], "run=a_list, whose config.json is damaged or of another program"),
    (["--run=training,evaluation"], "out must be given for several folders. Received: 2 in run"),
    (["--run=training", "--out=page.pdf"], r"out must end in \.html\. Received: out=page\.pdf"),
    (["--run=training", "--out=foreign/page.html"], "out must be free or an earlier report.*foreign/page"),
    (["--run=training", "--out=foreign"], r"out must end in \.html\. Received: out=foreign"),
    (["--run=training", "--out=/dev/null/page.html"], "out must be a folder that can be made.*/dev/null"),
    (["--run=training", "--out="], "out must be a non-empty text"),
    (["--frobnicate=1"], "--help lists. Received: --frobnicate"),
    (["--runs=training"], r"Did you mean --run\?"),
    (["training"], "--name=value.* Received: training"),
]

TABLE = [
    *(("main", *case) for case in (*TYPED, *MAIN, *DATA)),
    *(("evaluate", *case) for case in (*TYPED, *EVALUATE)),
    *(("analyze", *case) for case in (*TYPED, *ANALYZE)),
    *(("evaluate", [*ATTACK, *given], message) for given, message in DATA),
    *(("analyze", [*HESSIAN, *given], message) for given, message in DATA),
    *(("convert", *case) for case in (*TYPED, *CONVERT)),
    *(("report", *case) for case in REPORT),
]


def prepared(folder):
    """Fills a folder with exports, runs, flagfiles and checkpoints, sound ones and damaged ones."""

    def write(name, text):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())

    config = TrainConfig.of({"epochs": 6})
    for name in ("good", "plain", "damaged", "wrong"):
        write(f"exports/{name}/saved_model.pb", "not looked into")
    manifest = make_manifest("good", "classifier", (8, 8, 1), 10, {"config": config.to_json()})
    write_manifest(folder / "exports/good", manifest)
    write_manifest(folder / "exports/wrong", {**manifest, "num_classes": "ten"})
    write("exports/damaged/manifest.json", "{")
    write("foreign/thesis.tex", "years of work")
    write("foreign/page.html", "<p>years of work")
    write("half_prepared/mnist/3.0.1/features.json", "{}")
    split = {"name": "train", "filepathTemplate": SHARD_NAMES, "numBytes": "1000", "shardLengths": ["9"]}
    info = {"fileFormat": "tfrecord", "splits": [split]}
    write(f"half_prepared/cifar10/3.0.2/{INFO}", json.dumps(info))
    write("half_prepared/cifar10/3.0.2/cifar10-train.tfrecord-00000-of-00001", "cut")
    runs = {
        "training": (config, RunOptions()),
        "evaluation": (AttackSettings(eps=0.1), EvaluateOptions(model="exports/good", dataset="digits")),
    }
    for name, (settings, options) in runs.items():
        record = {"config": settings.to_json(), "options": options.to_json(), "versions": {"advtf": "0.1.0"}}
        write(f"{name}/config.json", json.dumps({"kind": name, **record}))
    write("partial/config.json", json.dumps({"versions": {"advtf": "0.1.0"}, "config": {}, "options": {}}))
    write("damaged/config.json", "{")
    write("a_list/config.json", "[]")
    write("binary.flags", b"\xff\xfe--eps=0.1")
    write("circle.flags", "--flagfile=circle.flags")
    write("words.flags", "# one\neps=0.1")
    write("unknown.flags", "--frobnicate")
    write("empty.npz", "")
    np.savez(folder / "state.npz", **{"conv1.weight": np.zeros((2, 2), np.float32)})
    np.savez(folder / "numbers.npz", a=1, b=2)
    write("pointer.pt", "version https://git-lfs.github.com/spec/v1")
    write("cut.npz", (folder / "state.npz").read_bytes()[:50])
    return folder


def identify(case):
    """Returns the name of a test."""
    return f"{case[0]} {' '.join(case[1])}"[:70]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = prepared(tmp_path_factory.mktemp("work"))
    cases = [(name, arguments) for name, arguments, _ in TABLE]
    done = worker.run_all(cases, folder, tmp_path_factory.mktemp("poison"))
    return {(name, *arguments): result for (name, arguments), result in zip(cases, done, strict=True)}


@pytest.mark.parametrize("case", TABLE, ids=identify)
def test_a_mistake_is_answered_by_one_line_and_changes_nothing(results, case):
    name, arguments, message = case
    result = results[name, *arguments]
    assert (result["code"], result["out"]) == (2, ""), result
    error = result["error"]
    assert error.startswith("error: ") and error.endswith("\n") and error.count("\n") == 1, error
    assert re.search(message, error), error
    assert len(error) < 700 or LONG in error
    assert result["changed"] == []
