"""The OAI's clinical tables as they are delivered, read into one set of typed columns."""
