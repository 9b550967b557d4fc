// The panel's live lines: what the settings will cost, what is wrong with a typed value, what the last pictures got.
// All figures come from the page and from the table that lib_noiseorder/webui/panel/cost_table.py writes into it.
"use strict";

(function() {
    const TABS = ["txt2img", "img2img"];
    const PREFIX = "Noise Order: ", TROUBLE = "⚠"; // as lib_noiseorder/webui/job/outcome.py writes them
    const EVERY_MS = 400; // pasting and presets set values without an event that bubbles, so look now and then
    const LOADING_MS = 3000;

    const element = (id) => document.getElementById(id) || gradioApp().querySelector(`#${id}`);
    const part = (tab, name) => element(`${tab}_noise_order_${name}`);
    const field = (holder) => holder && (holder.querySelector("input[type=number]") || holder.querySelector("input, select, textarea"));
    const text = (holder) => field(holder) ? field(holder).value : "";
    const number = (holder) => parseFloat(text(holder));
    const ticked = (holder) => Boolean(holder && holder.querySelector("input[type=checkbox]:checked"));
    const visible = (holder) => Boolean(holder && holder.offsetParent);

    function say(line, message, warns) {
        if (!line) return;
        if (line.textContent !== message) line.textContent = message; // a live region: write only what is new
        line.classList.toggle("noise-order-warning", Boolean(warns));
    }

    // -- the cost table ----------------------------------------------------------------------------------------------

    const known = {};

    function costTable(tab) {
        const holder = part(tab, "cost_table");
        if (!holder) return null;
        const source = holder.getAttribute("data-table");
        if (!known[tab] || known[tab].source !== source) known[tab] = {source, parsed: JSON.parse(source)};
        return known[tab].parsed;
    }

    function refresh() {
        for (const tab of TABS) {
            const button = part(tab, "refresh");
            if (button) button.click();
        }
    }

    // -- cost --------------------------------------------------------------------------------------------------------

    // What the page is about to sample: steps taken, evaluations per step, guidance.
    function sampling(tab, about) {
        const samplerName = text(element(`${tab}_sampling`));
        const sampler = about.samplers[samplerName] || {evaluations: 1, euler: false};
        const steps = number(element(`${tab}_steps`));
        let taken = steps;
        if (tab === "img2img" && !(window.opts && window.opts.img2img_fix_steps)) {
            taken = Math.floor(Math.min(number(element("img2img_denoising_strength")), 0.999) * steps) + 1;
        }
        const guided = number(element(`${tab}_cfg_scale`)) !== 1;
        return {steps, taken, guided, sampler, evaluations: taken * sampler.evaluations * (guided ? 2 : 1)};
    }

    // The second pass of hires fix where its noise is ordered, too: as many steps, and the sampler, that it has of its own.
    function hiresSampling(tab, about, run) {
        if (!(tab === "txt2img" && ticked(element("txt2img_hr-checkbox")) && ticked(part(tab, "hires_pass")))) return null;
        const sampler = about.samplers[text(element("hr_sampler"))] || run.sampler;
        const cfg = element("txt2img_hr_cfg");
        const guided = cfg ? number(cfg) !== 1 : run.guided;
        return {...run, taken: number(element("txt2img_hires_steps")) || run.steps, guided, sampler};
    }

    function selectionCost(costs, draws, steps) {
        const at = (costByLeastSteps) => costByLeastSteps.filter(([from]) => from <= steps).reduce((_, [, cost]) => cost, 0);
        return draws ? at(costs[2]) + (draws - 2) * (at(costs[3]) - at(costs[2])) : at(costs.own);
    }

    // Whether `chosen` names the draw of every picture that is about to be made, in this pass of its sampler.
    function replayed(tab, pass) {
        const entries = text(part(tab, "chosen")).replaceAll(",", " ").split(" ").filter((entry) => entry);
        const drawn = (entry) => Number(entry.split(":").pop().split("/")[pass] || 0) > 0;
        if (entries.length === 1 && !entries[0].includes(":")) return drawn(entries[0]);
        const pictures = number(element(`${tab}_batch_count`)) * number(element(`${tab}_batch_size`));
        const varied = ticked(element(`${tab}_subseed_show`)) && number(element(`${tab}_subseed_strength`)) !== 0;
        const seeds = [text(element(`${tab}_seed`))];
        if (varied) seeds.push(`${seeds[0]}+${text(element(`${tab}_subseed`))}`);
        return pictures === 1 && entries.some((entry) => seeds.includes(entry.split(":")[0]) && drawn(entry));
    }

    // Least and most extra evaluations (the checkpoint's kind may not be known yet), and what stands in the way.
    function cost(tab, about, run, pass = 0) {
        const weights = ["layout", "structure", "detail"].map((stage) => number(part(tab, `${stage}_weight`)));
        const asked = weights.filter((weight) => weight !== 0).length;
        const injects = number(part(tab, "strength")) !== 0;
        if (injects && !asked) return {warning: "All three weights are 0: there is nothing to inject. Set one, or strength 0."};
        const selection = text(part(tab, "selection"));
        const extra = [0, 0].fill(injects ? asked : 0);
        if (selection !== "off" && replayed(tab, pass)) return {extra};
        if (selection === "off") {
            const same = !injects && !text(part(tab, "chosen")) && number(part(tab, "erasure_samples")) === 1 && number(part(tab, "noise_scale")) === 1;
            return same ? {warning: "These settings leave the noise as it is."} : {extra};
        }
        const draws = number(part(tab, "selection_draws"));
        if (draws === 1) return {warning: "Selection compares at least 2 noises; with 1 there is nothing to choose."};
        const kind = `${selection} ${run.guided ? "guided" : "unguided"} ${run.sampler.euler ? "euler" : "other"}`;
        const families = about.family ? [about.family] : Object.keys(about.selection);
        const counts = families.map((family) => selectionCost(about.selection[family][kind], draws, run.taken));
        if (!Math.max(...counts)) {
            const few = `${run.taken} ${run.taken === 1 ? "step" : "steps"}`;
            return {warning: `${few}: too few to compare noises within Automatic's cost limit. Nothing is compared.`};
        }
        return {extra: [extra[0] + Math.min(...counts), extra[1] + Math.max(...counts)]};
    }

    function between(low, high, mark = "") {
        return low === high ? `${mark}${low}` : `${mark}${low} to ${mark}${high}`;
    }

    function costLine(tab, about) {
        const run = sampling(tab, about);
        const {warning, extra} = cost(tab, about, run);
        if (warning) return {line: `⚠ ${warning}`, warns: true};
        const copies = ticked(part(tab, "compare_with_off"));
        const plain = copies ? "; the plain copies: +100 %" : "";
        if (extra[1] === 0) return {line: `No extra model evaluations${plain}`};
        const noun = extra[1] === 1 ? "evaluation" : "evaluations";
        let line = `≈ ${between(...extra)} extra model ${noun}`;
        if (run.evaluations > 0 && !run.sampler["own steps"]) {
            const hires = tab === "txt2img" && ticked(element("txt2img_hr-checkbox")) ? " of the first pass" : "";
            const shares = extra.map((count) => Math.round(100 * count / run.evaluations));
            line += `: ${between(...shares, "+")} % at ${run.taken} steps${hires}`;
        }
        const second = hiresSampling(tab, about, run);
        const again = second && cost(tab, about, second, 1).extra;
        if (again && again[1] > 0) line += `; ${between(...again)} more in the hires pass`;
        return {line: line + plain};
    }

    // -- what happened -----------------------------------------------------------------------------------------------

    // The host brings our lines along with the pictures, among its comments below them: as text, so only a mark can tell them.
    function outcome(tab) {
        const log = element(`html_log_${tab}`);
        const texts = log ? [...log.querySelectorAll(".comments")].flatMap((holder) => [...holder.childNodes]) : [];
        const lines = texts.map((node) => node.textContent.trim()).filter((line) => line.startsWith(PREFIX));
        return lines.map((line) => line.slice(PREFIX.length));
    }

    // -- values that cannot be used ----------------------------------------------------------------------------------

    function typedIn(target) {
        if (!(target instanceof HTMLInputElement) || target.type !== "number") return null;
        for (const tab of TABS) {
            const about = target.closest(`#${tab}_noise_order_accordion`) && costTable(tab);
            for (const name in about ? about.ranges : {}) {
                const holder = part(tab, name);
                if (holder && holder.contains(target)) return {tab, holder, range: about.ranges[name]};
            }
        }
        return null;
    }

    function usable(value, range) {
        const meant = Number(value);
        return value !== "" && meant >= range.minimum && meant <= range.maximum && (!range.whole || Number.isInteger(meant));
    }

    function complain(input, {tab, holder, range}) {
        const kind = range.whole ? "an integer" : "a number";
        const slider = holder.querySelector("input[type=range]");
        const typed = input.value === "" ? "this" : input.value;
        const kept = slider ? ` It stays ${slider.value}.` : "";
        say(part(tab, "complaint"), `${range.label}: ${typed} is not ${kind} from ${range.minimum} to ${range.maximum}.${kept}`, true);
        input.setAttribute("aria-invalid", "true");
    }

    // Gradio never hears of a value that is out of range: it would send it off, or bend it to the nearest limit unsaid.
    function onTyping(event) {
        const typed = typedIn(event.target);
        if (!typed) return;
        if (usable(event.target.value, typed.range)) {
            say(part(typed.tab, "complaint"), "");
            event.target.removeAttribute("aria-invalid");
            return;
        }
        event.stopImmediatePropagation();
        if (event.target.value !== "") complain(event.target, typed); // empty may be a number half typed
    }

    // Leaving the field brings the value back that is in force, which the slider still shows.
    function onLeaving(event) {
        const typed = typedIn(event.target);
        if (!typed || usable(event.target.value, typed.range)) return;
        complain(event.target, typed);
        const slider = typed.holder.querySelector("input[type=range]");
        if (slider) event.target.value = slider.value;
        event.target.removeAttribute("aria-invalid");
    }

    // -- keeping it up to date ---------------------------------------------------------------------------------------

    const last = {};

    function changed(name, value) {
        const before = last[name];
        last[name] = value;
        return before !== undefined && before !== value;
    }

    function update() {
        for (const tab of TABS) {
            const lines = outcome(tab), line = lines.join(" · ");
            const troubled = lines.some((said) => said.endsWith(TROUBLE));
            say(part(tab, "outcome"), line && `Last time: ${line}`, troubled);
            if (changed(`${tab} outcome`, line)) refresh();
            const cost = part(tab, "cost"), about = costTable(tab), open = visible(part(tab, "menu"));
            if (open && !last[`${tab} open`]) refresh(); // a closed panel asks the server nothing
            last[`${tab} open`] = open;
            if (about && open) {
                const {line, warns} = costLine(tab, about);
                say(cost, line, warns);
            }
        }
        if (changed("checkpoint", text(element("setting_sd_model_checkpoint")))) setTimeout(refresh, LOADING_MS);
    }

    onUiLoaded(function() {
        document.addEventListener("input", onTyping, true);
        document.addEventListener("focusout", onLeaving, true);
        setInterval(update, EVERY_MS);
    });
})();
