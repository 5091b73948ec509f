"""What happens to the exchange when its parts are killed or stopped, judged by what its clients were told."""
