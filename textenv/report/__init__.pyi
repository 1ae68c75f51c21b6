from .answers_terminal import answers_table as answers_table
from .figure import write_figure as write_figure
from .glossary import GLOSSARY as GLOSSARY
from .page import write_report as write_report
from .terminal import summary_table as summary_table
