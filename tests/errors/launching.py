"""Wrong launchers, and folders of results that cannot be written to."""

from __future__ import annotations

from pathlib import Path

from tests.errors.world import Case, save_model, write, writes

RANKS = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}

PROCESSES = [
    Case(
        "a number of processes without a launcher",
        "main.py --world_size 2",
        "--world_size 2, but there are 1 processes: a launcher starts them (torchrun --nproc_per_node=N "
        "main.py ...); leave the flag out",
    ),
    Case(
        "no rank",
        "main.py",
        "WORLD_SIZE=2 is set, but RANK is not: start with torchrun --nproc_per_node=N (several "
        "machines: srun, or torchrun on each), or unset WORLD_SIZE for a single process",
        environment={"WORLD_SIZE": "2"},
    ),
    Case(
        "a rank too many",
        "main.py",
        "the variables of the launcher are inconsistent: RANK=2, WORLD_SIZE=2, LOCAL_RANK=0; they must "
        "be whole numbers, RANK and LOCAL_RANK from 0 to WORLD_SIZE - 1 (at most 99998)",
        environment={**RANKS, "RANK": "2"},
    ),
    Case(
        "no address of rank 0",
        "main.py",
        "rank 0: RANK and WORLD_SIZE are set, but MASTER_ADDR, the address of rank 0, is not: start "
        "with torchrun --nproc_per_node=N (several machines: srun, or torchrun on each)",
        environment=RANKS,
    ),
    Case(
        "a port that is none",
        "main.py",
        "rank 0: MASTER_PORT=http must be a whole number from 1 to 65535, the same for all processes",
        environment={**RANKS, "MASTER_ADDR": "node1", "MASTER_PORT": "http"},
    ),
    Case(
        "an address of another kind",
        "main.py --dist_url http://node1",
        "rank 0: --dist_url 'http://node1' must be env://, tcp://<host of rank 0>:<port> (1 to 65535) or file:///<a new file>",
        environment=RANKS,
    ),
    Case(
        "mpirun in place of torchrun",
        "main.py",
        "processes started by mpirun (Open MPI) (OMPI_COMM_WORLD_RANK=0, OMPI_COMM_WORLD_SIZE=4) would "
        "each do the whole run: start with torchrun --nproc_per_node=N (several machines: srun, or "
        "torchrun on each)",
        environment={"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4"},
    ),
    Case(
        "a tool that does not share its work",
        "tools.predict photos --resume model.pth",
        "rank 0: 2 processes would each do the whole work: start this command once, without torchrun or srun",
        environment=RANKS,
    ),
    Case(
        "several nodes on one machine",
        "run_with_submitit.py --cluster local --nodes 2",
        "--nodes 2 needs --cluster slurm: --cluster local is one machine",
    ),
    Case(
        "several GPUs in one process",
        "run_with_submitit.py --cluster debug --ngpus 2",
        "--ngpus 2: --cluster debug is one process; --cluster local starts several",
    ),
    Case(
        "no list of seeds",
        "run_with_submitit.py --cluster debug --seeds 1-x",
        "--seeds '1-x' is no list of seeds: give it as 0-4 or 0,3,7",
    ),
    Case(
        "a recipe that does not exist",
        "run_with_submitit.py --cluster debug --recipes none.args",
        "--recipes @none.args: the file of flags 'none.args' cannot be read (No such file or "
        "directory); a value that begins with @ is given as --flag=@none.args; give files of main.py's "
        "flags, as those in recipes/",
    ),
]


def finished() -> None:
    """Leave a checkpoint in the folder of results."""
    Path("output/birds/output_sub").mkdir(parents=True)
    save_model("output/birds/output_sub/checkpoint.pth")


def later() -> None:
    """Leave two checkpoints in the folder of results."""
    Path("output/birds/output_sub").mkdir(parents=True)
    for name, epoch in (("checkpoint", 3), ("checkpoint0000", 0)):
        save_model(f"output/birds/output_sub/{name}.pth", {"epoch": epoch, "step": 9 * epoch})


def damaged_run() -> None:
    """Leave a folder of results with a checkpoint that cannot be read."""
    write("output/birds/output_sub/checkpoint.pth", "nothing")


OUTPUT = [
    Case(
        "a file where the folder should be",
        "main.py --output_dir notes.txt",
        "--output_dir: notes.txt/birds/output_sub cannot be written to (Not a directory): choose another folder (--output_dir)",
        writes("notes.txt", "mine"),
    ),
    Case(
        "a run that is already there",
        "main.py",
        "output/birds/output_sub/checkpoint.pth exists already: resume it with --resume auto, or choose "
        "another --output_sub_dir; nothing was overwritten",
        finished,
    ),
    Case(
        "an old checkpoint of a run, which has later ones",
        "main.py --resume output/birds/output_sub/checkpoint0000.pth",
        "--resume output/birds/output_sub/checkpoint0000.pth would overwrite the later epochs of "
        "output/birds/output_sub/checkpoint.pth (up to 4): choose another --output_sub_dir; nothing was "
        "overwritten",
        later,
    ),
    Case(
        "a run of which no checkpoint can be read",
        "main.py --resume auto",
        "--resume auto: none of the 1 checkpoints in output/birds/output_sub can be read: remove them to start anew",
        damaged_run,
    ),
    Case(
        "a run without a folder",
        "main.py --resume auto --output_dir ''",
        "--output_dir '' writes nothing: --resume auto, --save_every_steps and --keep_last need a folder",
    ),
    Case(
        "TensorBoard without a folder", "main.py --tensorboard --output_dir ''", "--tensorboard needs an --output_dir to write to"
    ),
    Case(
        "the id of a job where there is none",
        "main.py --output_dir runs/%j",
        "--output_dir runs/%j: %j is the id of a job of SLURM, and this is none: leave it out",
    ),
    Case(
        "a table in a folder that does not exist",
        "tools.predict photos --resume model.pth --csv none/p.csv",
        "--csv none/p.csv cannot be written: the folder none does not exist; create it first",
    ),
    Case(
        "a folder in place of a table",
        "tools.predict photos --resume model.pth --json photos",
        "--json photos is a folder: give a file in it",
    ),
    Case(
        "panels in a file",
        "tools.predict photos --resume model.pth --panels notes.txt",
        "--panels notes.txt cannot be written (File exists): choose another folder",
        writes("notes.txt", "mine"),
    ),
    Case(
        "a figure of a kind that does not exist",
        "tools.figure --resume model.pth --classes wren --out figure.xyz",
        "--out figure.xyz: give a file that ends in .pdf, .svg, .png, .eps",
    ),
    Case(
        "a report over something else",
        "tools.report --resume model.pth --out notes",
        "notes exists and holds something else, which is not overwritten: choose another folder",
        writes("notes/a.txt", "mine"),
    ),
    Case(
        "an export over something else",
        "tools.export --resume model.pth --to dir --out notes",
        "--out notes exists and is not overwritten: choose another name",
        writes("notes/a.txt", "mine"),
    ),
    Case(
        "curves of a folder that is no run",
        "tools.plot_logs photos",
        "photos/log.txt cannot be read: give the folder of a training run, which holds its log.txt",
    ),
    Case(
        "two labels for one run",
        "tools.plot_logs run --labels a b",
        "--labels has 2 names for 1 runs: give one for each",
        writes("run/log.txt", ""),
    ),
    Case(
        "a run without a scored epoch",
        "tools.plot_logs run",
        "run/log.txt has no line with epoch, test_acc1 and elapsed (or train_seconds): give the folder "
        "of a run that has scored an epoch",
        writes("run/log.txt", ""),
    ),
    Case(
        "a data set over something else",
        "tools.make_planes --out datasets --name birds",
        "datasets/birds exists and is not a finished planes data set: give another --name, or remove it first",
    ),
    Case(
        "scenes without a folder",
        "tools.make_planes --pairs 3",
        "nothing to do: give --out for a data set, --sheet for a picture of its classes, or both",
    ),
]
