"""What Prefect runs, and the command line. Flows call tasks, tasks call the codec; never the other way round."""
