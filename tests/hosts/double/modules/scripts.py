AlwaysVisible = object()
scripts_data = []


class Script:
    infotext_fields = None
    args_from = args_to = 0

    def title(self):
        return type(self).__name__

    def run(self, p, *args): ...

    def before_process(self, p, *args): ...

    def process(self, p, *args): ...

    def before_process_batch(self, p, *args, **kwargs): ...

    def process_batch(self, p, *args, **kwargs): ...

    def process_before_every_sampling(self, p, *args, **kwargs): ...

    def postprocess_batch(self, p, *args, **kwargs): ...

    def postprocess(self, p, processed, *args): ...


class ScriptRunner:
    """Runs the hooks; an exception in one is reported and does not stop the job, as in the real hosts."""

    def __init__(self, scripts, selectable=()):
        self.alwayson_scripts, self.selectable_scripts = scripts, selectable

    def run(self, p, *args):
        """The pictures of the script that is chosen in the page's menu, by its number from 1; None without one."""
        return self.selectable_scripts[args[0] - 1].run(p) if args[0] else None

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
