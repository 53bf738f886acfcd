"""What a network's layers see: inputs, and the statistics of the layers' inputs."""
