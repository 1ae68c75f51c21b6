"""What people see in a browser: the labelling page and the dashboard, as routes for the server's application.

Pages load nothing from elsewhere, hold no inline script or style, and show every text as text.
"""

from textenv.feedback.pages.dashboard import dashboard_routes
from textenv.feedback.pages.labelling import labelling_routes

__all__ = ["dashboard_routes", "labelling_routes"]
