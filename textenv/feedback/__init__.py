"""Where the people are: the store of what they are asked and say, the server, its API and its pages.

Policies come in through :class:`textenv.protocols.GenerativePolicy`; what turns labels into training records stands in
``reward_models.labels``. Nothing here imports either package.
"""
