// What the user is called in chats, and how they look.

import { acts, byId } from "./chat_state.js";
import { labelled } from "./character_editor.js";
import { openDialog } from "./dialogs.js";
import { element, get, post, present } from "./net.js";
import { pictureField, portrait } from "./picture_field.js";

async function draw() {
  const profile = await get("profile");
  if (!profile) return;
  byId("profile-button").replaceChildren(portrait(profile.picture, profile.name, "avatar"), element("span", {}, profile.name));
}

acts.profile = async () => {
  const profile = await get("profile");
  if (!profile) return;
  const told = element("p", { className: "told fault", role: "alert", hidden: true });
  const tell = (text) => ((told.hidden = !text), (told.textContent = text));
  const name = element("input", { value: profile.name, maxLength: 100, autocomplete: "off" });
  const about = element("textarea", { value: profile.about, rows: 4 });
  const picture = pictureField(profile.picture, () => name.value || "You", tell);
  const cancel = element("button", { type: "button", className: "quiet" }, "Cancel");
  const form = element(
    "form",
    { className: "character-form" },
    element("div", { className: "form-body" },
      element("div", { className: "form-top" }, picture.node, labelled("Name", name, "What characters call you: it stands for {{user}}.")),
      labelled("Description", about, "What characters know of you, and what a transcript begins with. A plain instruct chat is not told."),
    ),
    told,
    element("div", { className: "row-end" }, cancel, element("button", { className: "primary" }, "Save")),
  );
  const dialog = openDialog("You", "editor-dialog", form);
  dialog.onclick = null;
  name.oninput = picture.draw;
  cancel.onclick = () => dialog.close();
  form.onsubmit = async (event) => {
    event.preventDefault();
    const body = { name: name.value, about: about.value, picture: picture.value() };
    if (!(await post("profile/save", body, tell))) return;
    dialog.close();
    draw();
  };
};

await present("profile-button");
draw();
