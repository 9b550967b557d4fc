// The panel's live lines: what the settings will cost, what is wrong with a typed value, what the last pictures got.
// lib_noiseorder/webui/panel/cost_line.py reckons; this file tells it what the page is about to make.
"use strict";

(function() {
    const TABS = ["txt2img", "img2img"], MASKED = ["inpaint", "inpaint_sketch", "inpaint_upload"];
    const PREFIX = "Noise Order: ", TROUBLE = "⚠"; // as lib_noiseorder/webui/job/outcome.py writes them
    const EVERY_MS = 400; // pasting and presets set values without an event that bubbles, so look now and then
    const LOADING_MS = [3000, 15000, 60000]; // how long a checkpoint may take to load
    const HIDDEN = "noise-order-hidden";

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

    function click(tab, name) {
        const button = part(tab, name);
        if (button) button.click();
    }

    // -- what the page is about to make: the server reckons what it costs -------------------------------------------------

    // The next pictures' seeds, as the setting "chosen" writes them; "" for those that are yet to be drawn.
    function seeds(tab) {
        const pictures = number(element(`${tab}_batch_count`)) * number(element(`${tab}_batch_size`)) || 1;
        const seed = number(element(`${tab}_seed`)), varied = ticked(element(`${tab}_subseed_show`));
        const another = number(element(`${tab}_subseed`));
        const varies = varied && number(element(`${tab}_subseed_strength`)) !== 0;
        const of = (n) => !(seed >= 0) ? "" : varies ? (another >= 0 ? `${seed}+${another + n}` : `${seed}`) : `${seed + n}`;
        return Array.from({length: pictures}, (_, n) => of(n));
    }

    function page(tab) {
        const hires = tab === "txt2img" && ticked(element("txt2img_hr-checkbox"));
        const cfg = element("txt2img_hr_cfg");
        const scripts = element(`${tab}_script_container`), script = scripts && text(scripts.querySelector("#script_list"));
        return JSON.stringify({
            script: Boolean(script) && script !== "None",
            steps: number(element(`${tab}_steps`)),
            prompt: text(element(`${tab}_prompt`)),
            sampler: text(element(`${tab}_sampling`)),
            scheduler: text(element(`${tab}_scheduler`)) || "Automatic",
            guidance: number(element(`${tab}_cfg_scale`)),
            denoising: tab === "img2img" ? number(element("img2img_denoising_strength")) : null,
            masked: tab === "img2img" && MASKED.some((name) => visible(element(`img2img_${name}_tab`))),
            hires: hires ? {
                sampler: text(element("hr_sampler")),
                scheduler: text(element("hr_scheduler")),
                denoising: number(element("txt2img_denoising_strength")),
                guidance: cfg ? number(cfg) : null,
                steps: number(element("txt2img_hires_steps")) || 0,
            } : null,
            seeds: seeds(tab),
        });
    }

    function settings(tab) {
        const fields = part(tab, "accordion").querySelectorAll("input, textarea");
        return [...fields].map((one) => one.type === "checkbox" ? one.checked : one.value).join("\n");
    }

    // What the server's answer says of the panel: which controls have no effect, and whether the formulas are in use.
    function follow(tab, cost) {
        const said = (name) => JSON.parse(cost.getAttribute(`data-${name}`) || "null");
        const effect = said("effect");
        if (!effect) return;
        for (const name in effect) {
            const holder = part(tab, name);
            if (holder) holder.classList.toggle(HIDDEN, !effect[name]);
        }
        const formulas = said("formulas"), before = last[`${tab} formulas`] || false;
        last[`${tab} formulas`] = formulas;
        const label = part(tab, "formulas").querySelector(".label-wrap");
        if (formulas !== before && label && label.classList.contains("open") !== formulas) label.click();
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
            const ranges = target.closest(`#${tab}_noise_order_accordion`) ? JSON.parse(part(tab, "ranges").dataset.ranges) : {};
            for (const name in ranges) {
                const holder = part(tab, name);
                if (holder && holder.contains(target)) return {tab, holder, range: ranges[name]};
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

    // What is in force now was never complained about.
    function withdrawComplaint(tab) {
        say(part(tab, "complaint"), "");
        delete complained[tab];
    }

    // Gradio never hears of a value that is out of range: it would send it off, or bend it to the nearest limit unsaid.
    function onTyping(event) {
        const typed = typedIn(event.target);
        if (!typed) return;
        if (usable(event.target.value, typed.range)) {
            withdrawComplaint(typed.tab);
            event.target.removeAttribute("aria-invalid");
            return;
        }
        event.stopImmediatePropagation();
        delete complained[typed.tab];
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
        complained[typed.tab] = settings(typed.tab);
    }

    // -- keeping it up to date ---------------------------------------------------------------------------------------

    const last = {};
    const complained = {}; // the settings of each tab's panel when a field was left with a value that cannot be used

    function changed(name, value) {
        const before = last[name];
        last[name] = value;
        return before !== undefined && before !== value;
    }

    function fill(id, value) {
        const input = field(element(id));
        if (!input || value === undefined) return;
        input.value = value;
        input.dispatchEvent(new Event("input", {bubbles: true}));
    }

    // The text below the picture that is shown; its seed is kept, too, so that "Use this noise again" makes it again.
    function shownInfotext(tab) {
        const shown = element(`html_info_${tab}`), infotext = shown ? shown.innerText.trim() : "";
        const said = (key) => (new RegExp(`(?:^|, )${key}: ([\\d.]+)`, "m").exec(infotext) || [])[1];
        const varied = said("Variation seed"), extra = field(element(`${tab}_subseed_show`));
        if (varied && extra && !extra.checked) extra.click();
        fill(`${tab}_seed`, said("Seed"));
        fill(`${tab}_subseed`, varied);
        fill(`${tab}_subseed_strength`, said("Variation seed strength"));
        return infotext;
    }

    function update() {
        const checkpoint = changed("checkpoint", text(element("setting_sd_model_checkpoint")));
        for (const tab of TABS) {
            const lines = outcome(tab), line = lines.join(" · ");
            const troubled = lines.some((said) => said.endsWith(TROUBLE));
            say(part(tab, "outcome"), line && `Last time: ${line}`, troubled);
            const made = changed(`${tab} outcome`, line), open = visible(part(tab, "menu"));
            if ((open && !last[`${tab} open`]) || made) click(tab, "refresh"); // a closed panel asks the server nothing
            if (open && (!last[`${tab} open`] || made)) last[`${tab} asked`] = undefined;
            last[`${tab} open`] = open;
            if (complained[tab] !== undefined && (made || complained[tab] !== settings(tab))) withdrawComplaint(tab);
            if (checkpoint) for (const ms of LOADING_MS) setTimeout(() => { last[`${tab} asked`] = undefined; }, ms);
            if (!open) continue;
            const asks = page(tab) + settings(tab);
            if (last[`${tab} asked`] !== asks) {
                last[`${tab} asked`] = asks;
                click(tab, "reckon");
            }
            const cost = part(tab, "cost");
            if (cost) follow(tab, cost);
        }
    }

    window.noiseOrder = {page, shownInfotext};

    onUiLoaded(function() {
        document.addEventListener("input", onTyping, true);
        document.addEventListener("focusout", onLeaving, true);
        setInterval(update, EVERY_MS);
    });
})();
