# Makes its layout, waits for backend's answer, then makes the page.
mkdir -p .pitwall app/talents
echo 'export default function Layout() {}' > app/layout.tsx
echo '{"progress": 0.4, "text": "layout done"}' > .pitwall/claim.json
until wget -q -O /dev/null http://backend:3000/api/talents 2>/dev/null; do sleep 1; done
echo 'export default function Talents() {}' > app/talents/page.tsx
echo '{"progress": 1.0, "text": "done"}' > .pitwall/claim.json
while :; do sleep 3600; done
