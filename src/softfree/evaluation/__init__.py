"""From scores to metrics with intervals, figures and the report; knows neither models nor training."""
