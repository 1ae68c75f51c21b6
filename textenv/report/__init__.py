"""Reports of a run: the self-contained HTML page, the README's figure and the terminal's summary table.

Everything here reads only the files of a run folder (or a summary already in memory); nothing trains, scores or loads a
model. The names load lazily because matplotlib and rich are heavy.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
