/** What to try first: each is a link's settings, all else as at the beginning. */
export const EXAMPLES = [
  { name: "A story", link: "seed=2" },
  { name: "Greedy", link: "do_sample=false&max_new_tokens=160" },
  { name: "No phrase twice", link: "do_sample=false&no_repeat_ngram_size=4&max_new_tokens=160" },
  { name: "Too hot", link: "temperature=1.6&top_p=1" },
  { name: "Hot, without and with a cut", link: "temperature=1.6&top_p=1&b.top_p=0.9" },
  { name: "One notch apart", link: "seed=4&temperature=0.8&b.temperature=0.9" },
];
