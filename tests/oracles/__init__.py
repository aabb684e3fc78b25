"""What tests compare with: transcriptions that read as their source does."""
