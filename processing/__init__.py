"""From files to tensors: images, DICOM, prompts and report text."""
