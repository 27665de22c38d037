"""A folder of .txt files: which of them are texts, and what is said of everything else that lies there."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .readers import decode

# How many files a message names of each kind.
EXAMPLES = 3


@dataclass(frozen=True)
class Folder:
    """What lies in a folder, at any depth.

    Attributes: `path`; `texts`, the parts of the path below it of each .txt file, in any case, sorted; `others`, the
    same of files of other names; `links`, of links to folders, which are not followed; `hidden`, of .txt files whose
    names begin with a dot. Other hidden files and folders are passed over.
    """

    path: Path
    texts: list[tuple[str, ...]]
    others: list[tuple[str, ...]]
    links: list[tuple[str, ...]]
    hidden: list[tuple[str, ...]]

    @property
    def has_labels(self) -> bool:
        """Whether most of the texts lie one folder down, in two folders or more: their names are the labels then."""
        labels = [parts[0] for parts in self.texts if len(parts) == 2]
        return 2 * len(labels) > len(self.texts) and len(set(labels)) > 1

    def choose(self, labelled: bool, argument: str) -> tuple[list[tuple[str, ...]], str]:
        """Return the texts that are read, and one line about what is not, or "".

        Args:
            labelled: Whether to read only what lies in a subfolder for each label, and no deeper.
            argument: What messages call the folder.

        Raises:
            ValueError: If most files would not be read, or if as many texts lie elsewhere as where labels say; names
                some.
        """
        if not labelled:
            read, unread = self.texts, {}
        else:
            read = [parts for parts in self.texts if len(parts) == 2]
            unread = {
                "right in the folder": [parts for parts in self.texts if len(parts) < 2],
                "deeper": [parts for parts in self.texts if len(parts) > 2],
            }
        elsewhere = sum(map(len, unread.values()))
        unread |= {"of other names than *.txt": self.others, "links to folders": self.links}
        count = sum(map(len, unread.values()))
        kinds = {**unread, "hidden": self.hidden}
        listed = "; ".join(f"{len(found):,} {kind} ({_examples(found)})" for kind, found in kinds.items() if found)
        if count > len(read) or (elsewhere and elsewhere >= len(read)):
            where = ", each in a subfolder that names its label" if labelled else ""
            raise ValueError(
                f"`{argument}` must hold texts in most of its files: .txt files{where}. Not read would be {listed}; "
                f"{len(read):,} would be read.{self._hint() if labelled and self.texts else ' Move the others away.'} "
                f"Received: {argument}={str(self.path)!r}"
            )
        return read, f"not read: {listed}" if listed else ""

    def _hint(self) -> str:
        """Return which folders inside might be meant: those with texts in subfolders, as aclImdb/train."""
        inside = sorted({parts[0] for parts in self.texts if len(parts) == 3})
        if not inside:
            return " `--task masked_lm` and `prepare --unlabelled` read .txt files at any depth, without labels."
        return f" Perhaps {' or '.join(str(self.path / name) for name in inside[:EXAMPLES])} is meant."


def look_into(path: Path, argument: str) -> Folder:
    """List what lies in a folder.

    Raises:
        ValueError: For a folder inside that cannot be read; names it.
    """
    texts, others, links, hidden = [], [], [], []

    def refuse(error: OSError):
        raise ValueError(
            f"`{argument}` must be a readable folder ({error.strerror}). Received: {error.filename}"
        ) from error

    for root, folders, files in os.walk(path, onerror=refuse):
        parts = Path(root).relative_to(path).parts
        for name in files:
            is_text = name.lower().endswith(".txt")
            if is_text or not name.startswith("."):
                kind = others if not is_text else hidden if name.startswith(".") else texts
                kind.append((*parts, name))
        folders[:] = [name for name in folders if not name.startswith(".")]
        links += [(*parts, name) for name in folders if os.path.islink(os.path.join(root, name))]
    return Folder(path, *map(sorted, (texts, others, links, hidden)))


def read_text(path: str, argument: str) -> str:
    """Read one .txt file, with line breaks as "\\n".

    Raises:
        ValueError: If it is not valid UTF-8; names the file and the line.
    """
    with open(path, "rb") as file:
        text = decode(file.read(), path, argument)
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _examples(found: Iterable[tuple[str, ...]]) -> str:
    names = ["/".join(parts) for parts in found]
    return ", ".join(names[:EXAMPLES]) + (", ..." if len(names) > EXAMPLES else "")
