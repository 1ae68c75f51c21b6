"""Labels out of the store and into it: rows in the ecosystem's columns, Argilla's and Label Studio's files."""

from textenv.feedback.formats.files import FORMATS, Exported, Imported, export_labels, import_labels
from textenv.feedback.formats.rows import demonstration_row, label_row, parse_row

__all__ = [
    "FORMATS",
    "Exported",
    "Imported",
    "demonstration_row",
    "export_labels",
    "import_labels",
    "label_row",
    "parse_row",
]
