"""Official metrics, each as its official scorer has it."""
