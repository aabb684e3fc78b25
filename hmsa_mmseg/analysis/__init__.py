"""What a model's predictions and programs are made of, in numbers."""
