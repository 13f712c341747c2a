"""The generative knee: truth maps rendered to bones, cartilage, images and DICOM.

Every identifier it makes starts with 1; real OAI identifiers start with 9.
"""
