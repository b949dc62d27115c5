"""What a run leaves behind: a journal while it runs, files when it is done, MLflow as a view."""
