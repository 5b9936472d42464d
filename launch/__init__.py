"""One job on one machine, on a SLURM cluster, or on a pod."""
