def decoder_model():
    return None
