"""``python -m hrm_bench.archive pack FOLDER FILE``: pack the records of a sweep into one file, or unpack them."""

from pathlib import Path

from hrm_bench import cli
from hrm_bench.records import archive

HELP = cli.Help(
    name="archive",
    words="pack FOLDER FILE | unpack FILE FOLDER",
    arguments={
        "pack FOLDER FILE": "write the finished records of a sweep into a .jsonl file",
        "unpack FILE FOLDER": "write them back; what is finished there is kept",
    },
    example="pack multirun/recipes results/recipes.jsonl",
)


def main(words: list[str]) -> int:
    """Pack or unpack, and print how many files."""
    if len(words) != 3 or words[0] not in ("pack", "unpack"):
        raise HELP.misuse(words)
    source, target = map(Path, words[1:])
    if words[0] == "pack":
        print(f"{archive.pack(source, target)} records: {target}")
    else:
        num_written, num_kept = archive.unpack(source, target)
        print(f"{num_written} files written, {num_kept} kept: {target}")
    return 0


if __name__ == "__main__":
    cli.run(main, HELP)
