"""The kit that all HTML pages are made of: run report, benchmark, heat map and dashboard.

`page` renders templates and puts what a page needs into one file, `charts` is the one drawer of charts, `numbers`
writes figures as people read them; `templates` holds the frame and shared macros, `static` style sheets and scripts.
What a page is about stays with its subject: this package knows no run, benchmark or label.
"""
