AlwaysVisible = object()
scripts_data = []


class Script:
    infotext_fields = None
    args_from = args_to = 0

    def title(self):
        return type(self).__name__

    def process(self, p, *args): ...

    def before_process_batch(self, p, *args, **kwargs): ...

    def process_batch(self, p, *args, **kwargs): ...

    def process_before_every_sampling(self, p, *args, **kwargs): ...

    def postprocess_batch(self, p, *args, **kwargs): ...

    def postprocess(self, p, processed, *args): ...


class ScriptRunner:
    """Runs the hooks; an exception in one is reported and does not stop the job, as in the real hosts."""

    def __init__(self, scripts):
        self.alwayson_scripts = scripts

    def __getattr__(self, hook):
        def run(p, *first, **kwargs):
            from modules import errors

            for script in self.alwayson_scripts:
                args = p.script_args[script.args_from : script.args_to]
                try:
                    getattr(script, hook)(p, *first, *args, **kwargs)
                except Exception:
                    errors.report(f"Error running {hook}", exc_info=True)

        return run
