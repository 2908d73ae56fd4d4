"""Progress bars, memory, the machine and number formats: what every room needs and what needs no room."""
