"""From YAML and the command line to checked, complete configurations; never imports torch."""
